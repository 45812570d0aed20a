//! What is taken and what is refused.

use std::path::PathBuf;

use limen_core::model::GIB;
use limen_core::service::HostReserve;

use super::*;

type Set = fn(&mut CoreArgs, &str);

#[test]
fn a_bad_value_is_refused_in_a_sentence_that_names_its_variable() {
    let cases: [(&str, Set, &str); 33] = [
        ("HYPERVISOR_URI", |a, v| a.hypervisor_uri = Some(v.into()), "qemu"),
        ("HYPERVISOR_URI", |a, v| a.hypervisor_uri = Some(v.into()), "QEMU:///system"),
        ("HYPERVISOR_URI", |a, v| a.hypervisor_uri = Some(v.into()), "qemu:///sys\ntem"),
        ("HYPERVISOR_URI", |a, v| a.hypervisor_uri = Some(v.into()), ""),
        ("LIBVIRT_URI", |a, v| a.libvirt_uri = Some(v.into()), "://"),
        ("VIRT_TYPE", |a, v| a.virt_type = Some(v.into()), "xen"),
        ("DATABASE_URL", |a, v| a.database_url = Some(v.into()), "mysql://x/y"),
        ("DATABASE_URL", |a, v| a.database_url = Some(v.into()), "postgres:x"),
        ("DATABASE_URL", |a, v| a.database_url = Some(v.into()), "sqlite://"),
        ("DATABASE_URL", |a, v| a.database_url = Some(v.into()), ""),
        ("DB_HOST", |a, v| a.db_host = Some(v.into()), "a b"),
        ("DB_PORT", |a, v| a.db_port = Some(v.into()), "0"),
        ("DB_PORT", |a, v| a.db_port = Some(v.into()), "65536"),
        ("DB_USER", |a, v| a.db_user = Some(v.into()), ""),
        ("DB_PASSWORD", |a, v| a.db_password = Some(v.into()), ""),
        ("DB_NAME", |a, v| a.db_name = Some(v.into()), ""),
        ("LIMEN_DATA_DIR", |a, v| a.data_dir = Some(v.into()), "relative"),
        ("LIMEN_VMS_DIR", |a, v| a.vms_dir = Some(v.into()), "./vms"),
        ("LIMEN_IMAGES_DIR", |a, v| a.images_dir = Some(v.into()), ""),
        ("MEMORY_OVERCOMMIT", |a, v| a.memory_overcommit = Some(v.into()), "0"),
        ("MEMORY_OVERCOMMIT", |a, v| a.memory_overcommit = Some(v.into()), "NaN"),
        ("MEMORY_OVERCOMMIT", |a, v| a.memory_overcommit = Some(v.into()), "much"),
        ("FREE_SPACE_GIB", |a, v| a.free_space_gib = Some(v.into()), "-1"),
        ("FREE_SPACE_GIB", |a, v| a.free_space_gib = Some(v.into()), "2 GiB"),
        ("HOST_METRICS", |a, v| a.figures.host_metrics = Some(v.into()), ""),
        ("HOST_METRICS", |a, v| a.figures.host_metrics = Some(v.into()), "192.0.2.1:9000"),
        ("HOST_METRICS", |a, v| a.figures.host_metrics = Some(v.into()), "http://user:password@192.0.2.1:9000"),
        ("METRICS_INTERVAL", |a, v| a.figures.metrics_interval = Some(v.into()), "15"),
        ("METRICS_INTERVAL", |a, v| a.figures.metrics_interval = Some(v.into()), "2h"),
        ("HOST_METRICS_TOKEN", |a, v| a.figures.host_metrics_token = Some(v.into()), "of nobody"),
        ("LOG_LEVEL", |a, v| a.log_level = Some(v.into()), "INFO "),
        ("LOG_LEVEL", |a, v| a.log_level = Some(v.into()), "verbose"),
        ("LOG_FORMAT", |a, v| a.log_format = Some(v.into()), "xml"),
    ];
    for (name, set, value) in cases {
        let mut args = CoreArgs::default();
        set(&mut args, value);
        let sentence = args.judge().expect_err(name).to_string();
        assert!(sentence.starts_with(name) && sentence.ends_with('.'), "{name}={value:?}: {sentence}");
    }
}

#[test]
fn a_bad_server_value_is_refused_too() {
    type Set = fn(&mut HttpArgs, &str);
    let zeros = "0".repeat(64);
    let cases: [(&str, Set, &str); 21] = [
        ("ALLOWED_ORIGINS", |a, v| a.allowed_origins = Some(v.into()), ""),
        ("ALLOWED_ORIGINS", |a, v| a.allowed_origins = Some(v.into()), "https://a.kr/"),
        ("BIND_ADDRESS", |a, v| a.bind_address = Some(v.into()), "localhost"),
        ("PORT", |a, v| a.port = Some(v.into()), "-1"),
        ("PORT", |a, v| a.port = Some(v.into()), "80 "),
        ("PORT", |a, v| a.port = Some(v.into()), "99999"),
        ("JWT_SECRET", |a, v| a.jwt_secret = Some(v.into()), "short"),
        ("JWT_SECRET", |a, v| a.jwt_secret = Some(v.into()), &zeros),
        ("JWT_SECRET", |a, v| a.jwt_secret = Some(v.into()), "Change-Me-Please-0123456789-abcdef"),
        ("JWT_SECRET", |a, v| a.jwt_secret = Some(v.into()), "your-secret-key-here-at-least-32-bytes"),
        ("JWT_SECRET", |a, v| a.jwt_secret = Some(v.into()), "0123456789abcdef0123456789abcdef"),
        ("JWT_SECRET_PREVIOUS", |a, v| a.jwt_secret_previous = Some(v.into()), "short"),
        ("JWT_SECRET_PREVIOUS", |a, v| a.jwt_secret_previous = Some(v.into()), &zeros),
        ("TOKEN_EXPIRY_HOURS", |a, v| a.token_expiry_hours = Some(v.into()), "0"),
        ("TOKEN_EXPIRY_HOURS", |a, v| a.token_expiry_hours = Some(v.into()), "721"),
        ("TOKEN_EXPIRY_HOURS", |a, v| a.token_expiry_hours = Some(v.into()), "1.5"),
        ("TOKEN_EXPIRY_HOURS", |a, v| a.token_expiry_hours = Some(v.into()), ""),
        ("ADMIN_USER", |a, v| a.admin_user = Some(v.into()), ""),
        ("ADMIN_PASSWORD", |a, v| a.admin_password = Some(v.into()), ""),
        ("AGENT_URL", |a, v| a.agent.agent_url = Some(v.into()), ""),
        ("AGENT_URL", |a, v| a.agent.agent_url = Some(v.into()), "http://user:password-of-the-agent@127.0.0.1:9000"),
    ];
    for (name, set, value) in cases {
        let mut args = HttpArgs::default();
        set(&mut args, value);
        let sentence = args.judge().expect_err(name).to_string();
        assert!(sentence.starts_with(name), "{name}: {sentence}");
        assert!(value.len() < 20 || !sentence.contains(value), "{name} must not be repeated: {sentence}");
    }
    let good = "d41d8cd98f00b204e9800998ecf8427e";
    assert!(judge_jwt_secret("JWT_SECRET", good).is_ok());
    let args =
        HttpArgs { jwt_secret: Some(good.into()), jwt_secret_previous: Some(good.into()), ..HttpArgs::default() };
    let sentence = args.judge().expect_err("the same twice").to_string();
    assert!(sentence.starts_with("JWT_SECRET_PREVIOUS") && !sentence.contains(good), "{sentence}");
}

#[test]
fn without_any_value_the_embedded_defaults_hold() {
    let core = CoreArgs::default().judge().expect("defaults");
    assert_eq!(core.hypervisor, HypervisorChoice::Libvirt("qemu:///system".to_owned()));
    assert!(matches!(core.store, StoreChoice::Sqlite(path) if path == "/var/lib/limen/limen.db"));
    assert_eq!(core.vms_dir, PathBuf::from("/var/lib/limen/vms"));
    assert_eq!(core.reserve, HostReserve { memory_overcommit: Some(1.5), free_bytes: 2 * GIB });
    let http = HttpArgs::default().judge().expect("defaults");
    assert_eq!(http.bind.to_string(), "0.0.0.0:18443");
    assert_eq!(http.token_expiry.as_secs(), 24 * 3600);
}

#[test]
fn the_parts_of_a_database_make_a_url_whatever_is_in_the_password() {
    let args =
        CoreArgs { db_host: Some("db.example".into()), db_password: Some("p@ss/w:rd%".into()), ..CoreArgs::default() };
    let StoreChoice::Postgres(url) = args.judge().expect("valid").store else { panic!("not PostgreSQL") };
    assert_eq!(url.expose(), "postgres://postgres:p%40ss%2Fw%3Ard%25@db.example:5432/limen");
}

#[test]
fn two_hypervisors_are_one_too_many() {
    let args = CoreArgs {
        hypervisor_uri: Some("sim:///".into()),
        libvirt_uri: Some("qemu:///system".into()),
        ..CoreArgs::default()
    };
    assert!(args.judge().is_err());
}
