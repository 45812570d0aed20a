//! The guides are true: their links lead somewhere, their commands do what they say, and every
//! promise has a test.

mod api;
mod commands;
mod files;
mod links;
mod markdown;
mod nginx;
mod promises;
mod verification;

use std::process::Command;
use std::time::Duration;

use limen_support::process::{self, Output};

/// Whether the long forms are asked for.
fn full_form() -> bool {
    std::env::var_os("LIMEN_CAMPAIGN").is_some_and(|form| form == "full")
}

/// Runs what a document shows, in a shell as its reader has one.
fn shell(text: &str) -> Output {
    process::run(Command::new("bash").args(["-c", text]).current_dir("/tmp"), Duration::from_secs(240))
}
