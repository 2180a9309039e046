//! The process of an exec: the container's own, with another command line.

use oci_spec::runtime::Process;

use crate::env::TERM;

/// A process that runs `cmd` with the user, environment, capabilities and limits of `container_process`.
pub fn exec_process(container_process: &Process, cmd: &[String], tty: bool) -> Process {
    let mut process = container_process.clone();
    process
        .set_args(Some(cmd.to_vec()))
        .set_command_line(None)
        .set_terminal(Some(tty))
        .set_console_size(None);
    if tty {
        let env = process.env_mut().get_or_insert_default();
        if !env.iter().any(|entry| entry.starts_with("TERM=")) {
            env.push(TERM.to_owned());
        }
    }
    process
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use oci_spec::runtime::ProcessBuilder;

    use super::*;

    #[test]
    fn only_the_command_and_the_terminal_differ() {
        let own = ProcessBuilder::default()
            .terminal(false)
            .args(vec!["server".to_owned()])
            .env(vec!["A=1".to_owned()])
            .cwd("/srv")
            .build()
            .unwrap();
        let cmd = ["ls".to_owned(), "-l".to_owned()];
        let exec = exec_process(&own, &cmd, false);
        let mut expected = own.clone();
        expected.set_args(Some(cmd.to_vec()));
        assert_eq!(exec, expected);

        let exec = exec_process(&own, &cmd, true);
        assert_eq!(exec.terminal(), Some(true));
        assert_eq!(exec.env().as_deref().unwrap(), ["A=1", "TERM=xterm"]);
        assert_eq!(exec_process(&exec, &cmd, true), exec);
    }
}
