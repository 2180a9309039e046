//! Pintle: a Kubernetes CRI server that talks directly to OCI runtimes, and its operator's commands.
//!
//! This file shows the life of the process: which command runs, how it is given threads, and how it ends.

#![forbid(unsafe_code)]

mod amount;
mod args;
mod assemble;
mod check;
mod client;
mod config;
mod exit;
mod image;
mod monitor_binary;
mod print_config;
mod run;
mod serve;
mod status;
mod version;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    args::{Arguments, Command},
    exit::{Exit, Failure, OrExit, in_full},
};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return report_usage(&error),
    };
    match run(&arguments) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            for line in in_full(failure.error.as_ref()).lines() {
                eprintln!("pintle: {line}");
            }
            failure.exit.into()
        }
    }
}

fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let config = arguments.config.as_deref();
    // A server has clients that go away, and `run` has a pod to take down.
    if !matches!(arguments.command, Command::Serve | Command::Run(_)) {
        sys::startup::end_with_the_reader();
    }
    match &arguments.command {
        Command::Serve => serve::serve(config),
        Command::Config(arguments) => print_config::run(config, arguments),
        Command::Version(output) => {
            version::print(output);
            Ok(Exit::Passed(0))
        }
        Command::Status(arguments) => as_client(status::run(config, arguments)),
        Command::Check(output) => as_client(check::run(config, output)),
        Command::Run(arguments) => as_client(run::run(config, arguments)),
        Command::Image(command) => as_client(async {
            image::run(config, command).await?;
            Ok(Exit::Passed(0))
        }),
    }
}

/// A client waits most of the time: one thread is enough.
fn as_client(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .or_exit(Exit::Internal)?;
    runtime.block_on(work)
}

/// Help and versions are asked for; everything else that clap says is wrong usage.
fn report_usage(error: &clap::Error) -> ExitCode {
    // Nothing is left to be done about a closed terminal.
    let _ = error.print();
    if error.use_stderr() {
        Exit::Usage.into()
    } else {
        ExitCode::SUCCESS
    }
}
