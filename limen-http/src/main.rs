//! The binary `limen`: see [`limen_http::run`].

fn main() -> std::process::ExitCode {
    limen_http::run()
}
