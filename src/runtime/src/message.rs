//! The runtime's own words: what it logged or printed when it failed, in one line that fits a pod's status.

use serde::Deserialize;

/// Longest message handed on.
const MESSAGE_CHARS_MAX: usize = 1024;

/// A line of a runtime's JSON log: `{"level", "msg"}` of runc and crun, `{"level", "fields": {"message"}}` of youki.
#[derive(Deserialize)]
struct LogLine {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    fields: Fields,
}

#[derive(Default, Deserialize)]
struct Fields {
    #[serde(default)]
    message: String,
}

/// The message in `log`, else in `printed` (its last line), else `fallback`.
pub(crate) fn find(log: &[u8], printed: &[u8], fallback: &str) -> String {
    let message = logged(log)
        .or_else(|| logged(printed))
        .or_else(|| last_line(printed))
        .or_else(|| last_line(log));
    one_line(&message.unwrap_or_else(|| fallback.to_owned()))
}

/// The last error of a JSON log; without one, the last message of any level.
fn logged(log: &[u8]) -> Option<String> {
    let mut last = None;
    let mut last_error = None;
    for line in log.split(|&byte| byte == b'\n') {
        let Ok(line) = serde_json::from_slice::<LogLine>(line) else {
            continue;
        };
        let text = if line.msg.is_empty() {
            line.fields.message
        } else {
            line.msg
        };
        if text.is_empty() {
            continue;
        }
        if ["error", "fatal", "panic"]
            .iter()
            .any(|level| line.level.eq_ignore_ascii_case(level))
        {
            last_error = Some(text);
        } else {
            last = Some(text);
        }
    }
    last_error.or(last)
}

fn last_line(text: &[u8]) -> Option<String> {
    let line = text
        .split(|&byte| byte == b'\n')
        .rev()
        .find(|line| !line.trim_ascii().is_empty())?;
    Some(String::from_utf8_lossy(line).into_owned())
}

fn one_line(text: &str) -> String {
    let clean: String = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MESSAGE_CHARS_MAX + 1)
        .collect();
    if clean.chars().count() > MESSAGE_CHARS_MAX {
        clean
            .chars()
            .take(MESSAGE_CHARS_MAX - 1)
            .chain(['…'])
            .collect()
    } else {
        clean
    }
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn the_last_error_is_told() {
        let runc = br#"{"level":"warning","msg":"w","time":"t"}
{"level":"error","msg":"runc create failed: no such file","time":"t"}
{"level":"info","msg":"bye","time":"t"}
"#;
        assert_eq!(
            find(runc, b"", "exit status 1"),
            "runc create failed: no such file"
        );
        let youki = br#"{"timestamp":"t","level":"ERROR","fields":{"message":"failed to create"},"target":"x"}"#;
        assert_eq!(find(youki, b"", ""), "failed to create");
    }

    #[test]
    fn what_was_printed_is_next() {
        assert_eq!(
            find(b"", b"a\nlast words\n\n", "exit status 1"),
            "last words"
        );
        assert_eq!(find(b"", br#"{"level":"error","msg":"said"}"#, ""), "said");
        assert_eq!(find(b"plain log", b"", ""), "plain log");
        assert_eq!(find(b"", b"", "exit status 1"), "exit status 1");
    }

    #[test]
    fn a_message_is_one_short_line() {
        let long = "x".repeat(5000);
        assert_eq!(find(b"", long.as_bytes(), "").chars().count(), 1024);
        assert_eq!(
            find(br#"{"level":"error","msg":"a\nb\u0007c"}"#, b"", ""),
            "a b c"
        );
        assert_eq!(find(b"\xff\xfe", b"", ""), "\u{fffd}\u{fffd}");
    }
}
