//! `limen doctor`: what is wrong with this machine, and the command that mends each.
//!
//! Every look has a bound in time and all begin at once, so the whole ends within ten seconds with
//! everything hung. A look changes nothing. Where the machine has the service `limen.service`, its
//! settings and its user are looked at: doctor calls itself anew with them ([`place`]).

mod database;
mod finding;
mod firewall;
mod kvm;
mod libvirt;
mod machine;
mod place;
mod process;
mod proxy;
mod settings;

use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::process::Command;

use self::database::Password;
use self::finding::{Kind, Report, Weight};
use self::place::Place;
use super::{Failure, Result, output};
use crate::config::{CoreArgs, HttpArgs, HypervisorChoice};

pub(super) const HELP: &str = "\
Looks at the settings, the port, the data directory, space, the database, libvirt, KVM, the firewall,
the agent, and with --url at the proxy. Each finding names the command that mends it; docs/doctor.md
has them all. Where limen.service is installed its settings are looked at, as root, without --here:

  sudo limen doctor
  sudo limen doctor --url https://limen.example.org
  limen doctor --hypervisor-uri 'sim:///?vms=3' --data-dir /tmp/limen

Exit codes: 0 when nothing is wrong, or only warnings were found; 1 when LIMEN does not work so.";

/// How long one look may take at most; libvirt's has its own.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// Look at the settings of this environment, also where limen.service is installed
    #[arg(long)]
    here: bool,
    /// Ask the hypervisor, and tell it as JSON
    #[arg(long, hide = true)]
    probe: bool,
    #[command(flatten)]
    http: HttpArgs,
}

/// The command that starts or restarts a service.
fn systemctl(verb: &str, service: &str) -> String {
    format!("systemctl {verb} {service}")
}

pub(super) async fn run(core: &CoreArgs, args: &DoctorArgs, url: Option<&str>, as_json: bool) -> Result<u8> {
    if args.probe {
        output::line(libvirt::probe(&core.judge()?).await.to_string());
        return Ok(0);
    }
    let service =
        if args.here { None } else { tokio::task::spawn_blocking(place::service_settings).await.ok().flatten() };
    if let Some(settings) = service {
        if !rustix::process::geteuid().is_root() {
            let sentence = "limen.service is installed, and only root may look at all of it: sudo limen doctor; \
                            or limen doctor --here for the settings of this environment.";
            return Err(Failure::usage(sentence));
        }
        // What is set here wins, as a flag does.
        let own = settings.into_iter().filter(|(name, _)| std::env::var_os(name).is_none());
        let mut anew = Command::new(std::env::current_exe()?);
        let status = anew.args(std::env::args_os().skip(1)).envs(own).status().await?;
        return Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
    }
    let report = look(core, args, url).await?;
    let wrong = report.findings.iter().any(|finding| finding.kind.weight() == Weight::Error);
    if as_json {
        let looked: Vec<_> =
            report.looked.iter().map(|(what, detail)| json!({"what": what, "detail": detail})).collect();
        output::json(&json!({"ok": !wrong, "findings": report.findings, "looked": looked}));
    } else {
        print(&report);
    }
    Ok(u8::from(wrong))
}

async fn look(core_args: &CoreArgs, args: &DoctorArgs, url: Option<&str>) -> Result<Report> {
    let proxy = url.map(|text| {
        reqwest::Url::parse(text)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| Failure::usage(format!("--url must be a URL like https://limen.example.org, not {text:?}.")))
    });
    let proxy = proxy.transpose()?;
    let place = Place::here();
    let (core, mut report) = settings::core(&place, core_args);
    let store = core.as_ref().map(|core| &core.store);
    let (http, refused) = settings::server(&place, core_args, &args.http, store);
    report.add(refused);

    let of_http = async {
        let Some(http) = &http else { return Report::default() };
        let (mut listening, agent, firewall) =
            tokio::join!(machine::listening(&place, http), machine::agent(http), firewall::look(http));
        listening.add(agent);
        listening.add(firewall);
        listening
    };
    let of_core = async {
        let Some(core) = &core else { return Report::default() };
        let hypervisor = async {
            let mut report = machine::programs(core);
            if matches!(core.hypervisor, HypervisorChoice::Libvirt(_)) {
                let (mut looked, virt_type) = libvirt::look(&place, core).await;
                let kvm = kvm::look(&place, core);
                let is_found = |report: &Report, kind| report.findings.iter().any(|finding| finding.kind == kind);
                let (closed, no_qemu) = (is_found(&kvm, Kind::KvmClosed), is_found(&report, Kind::QemuAbsent));
                // What follows from another finding is none of its own: libvirt is slow where QEMU cannot
                // open the device, and fails where there is no QEMU.
                looked.findings.retain(|finding| {
                    !(closed && libvirt::is_slow(finding) || no_qemu && finding.kind == Kind::LibvirtFailed)
                });
                report.add(looked);
                report.add(kvm);
                virt_type.into_iter().for_each(|virt_type| kvm::guests(&mut report, virt_type));
            } else {
                report.good("hypervisor", core.hypervisor.uri());
            }
            report
        };
        let password = match core_args.database_secret() {
            (true, _) => Password::Url,
            (false, Some(file)) => Password::File(file.to_owned()),
            (false, None) => Password::Variable,
        };
        let database = database::look(&place, &core.store, password);
        let (mut data, database, hypervisor) = tokio::join!(machine::data(&place, core), database, hypervisor);
        data.add(database);
        data.add(hypervisor);
        data
    };
    let of_proxy = async {
        match &proxy {
            Some(url) => proxy::look(&place, url).await,
            None => Report::default(),
        }
    };
    let (server, installation, proxy) = tokio::join!(of_http, of_core, of_proxy);
    report.add(server);
    report.add(installation);
    report.add(proxy);
    report.findings.sort_by_key(|finding| (finding.kind.weight(), finding.kind));
    Ok(report)
}

fn print(report: &Report) {
    for (what, detail) in &report.looked {
        output::line(format!("{:8} {what:10} {detail}", "ok"));
    }
    for finding in &report.findings {
        let word = match finding.kind.weight() {
            Weight::Error => "wrong",
            Weight::Warning => "warning",
        };
        output::line(format!("{word:8} {:10} {}", finding.kind.name(), finding.message));
        output::line(format!("{:19} mend it: {}", "", finding.command));
    }
    let errors = report.findings.iter().filter(|finding| finding.kind.weight() == Weight::Error).count();
    let warnings = report.findings.len() - errors;
    output::line(match (errors, warnings) {
        (0, 0) => "Nothing is wrong.".to_owned(),
        (0, warnings) => format!("LIMEN works; {warnings} to look at."),
        (errors, _) => format!("{errors} wrong: LIMEN does not work so, or not safely."),
    });
}
