//! `pintle config`.

use std::path::Path;

use crate::{
    args::ConfigArguments,
    config::{self, Config, Sources},
    exit::{Exit, Failure, OrExit},
};

/// Prints the configuration, or says whether it is right.
pub(crate) fn run(
    config_file: Option<&Path>,
    arguments: &ConfigArguments,
) -> Result<Exit, Failure> {
    if arguments.defaults {
        print!("{}", config::to_yaml(&Config::default()));
        return Ok(Exit::Passed(0));
    }
    let sources = Sources::new(config_file);
    let config = config::load(&sources).or_exit(Exit::Usage)?;
    if arguments.check {
        println!("the configuration is right");
    } else {
        print!("{}", config::to_yaml(&config));
    }
    Ok(Exit::Passed(0))
}
