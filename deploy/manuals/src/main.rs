//! Writes what is generated from the command line and the configuration: `manuals DIRECTORY`, with `man/` and `completions/` in it.
//!
//! A program of its own, so that what it needs is no part of the one that is shipped, and so that it builds without the server.
//! `make manuals` runs it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::{Shell, generate_to};

#[path = "../../../src/pintle/src/args.rs"]
mod args;

/// Every key with its documentation and its default, as `pintle config --defaults` prints them.
const CONFIGURATION: &str = include_str!("../../../contrib/config.yaml");

fn main() -> Result<()> {
    let directory = PathBuf::from(env::args_os().nth(1).context("usage: manuals DIRECTORY")?);
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    for made in [&man, &completions] {
        fs::create_dir_all(made).with_context(|| format!("making {}", made.display()))?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(
            shell,
            &mut args::Arguments::command(),
            "pintle",
            &completions,
        )
        .with_context(|| format!("writing to {}", completions.display()))?;
    }
    clap_mangen::generate_to(args::Arguments::command(), &man)
        .with_context(|| format!("writing to {}", man.display()))?;
    write(&man.join("pintle-config.5"), &configuration_page())
}

/// config.yaml(5), so to speak: the file as it is, since that is how people read it best.
fn configuration_page() -> String {
    let head = "Configuration of the container runtime pintle: \\fI/etc/pintle/config.yaml\\fR, then \
                \\fI/etc/pintle/conf.d/*.yaml\\fR. No file is needed: what stands here is what holds without one. Unknown keys are \
                errors. \\fBpintle config\\fR prints what is in force, \\fBpintle config \\-\\-check\\fR looks for mistakes.";
    let lines: Vec<_> = CONFIGURATION.lines().map(verbatim).collect();
    let text = lines.join("\n");
    format!(
        ".TH pintle-config 5 \"\" \"pintle {}\"\n.SH NAME\npintle-config \\- configuration of pintle\n.SH DESCRIPTION\n{head}\n\
         .SH KEYS AND DEFAULTS\n.nf\n{text}\n.fi\n.SH SEE ALSO\n\\fBpintle\\fR(1), \\fBpintle-config\\fR(1)\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// A line as roff prints it unchanged: no escapes, and no request even if it begins like one.
fn verbatim(line: &str) -> String {
    format!("\\&{}", line.replace('\\', "\\e").replace('-', "\\-"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
