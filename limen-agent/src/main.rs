//! The binary `limen-agent`: see [`limen_agent::run`].

fn main() -> std::process::ExitCode {
    limen_agent::run()
}
