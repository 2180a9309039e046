//! Signals by CRI's enum number, by name and by Linux number.
//!
//! CRI numbers its `Signal` enum alphabetically, images write names or Linux numbers, and the kernel takes numbers:
//! [`Signal`] holds the Linux number, and this module is the only place where the three meet.

use std::fmt;
use std::str::FromStr;

/// A Linux signal, 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(u8);

/// The first real-time signal that programs see: the C library keeps 32 and 33 for itself.
const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

/// Names and Linux numbers (of every architecture that we build for), in the order of CRI's enum from 1 on.
/// Where a number has two names, [`Signal::name`] takes the one marked `true`.
const NAMED: &[(&str, u8, bool)] = &[
    ("SIGABRT", 6, true),
    ("SIGALRM", 14, true),
    ("SIGBUS", 7, true),
    ("SIGCHLD", 17, true),
    ("SIGCLD", 17, false),
    ("SIGCONT", 18, true),
    ("SIGFPE", 8, true),
    ("SIGHUP", 1, true),
    ("SIGILL", 4, true),
    ("SIGINT", 2, true),
    ("SIGIO", 29, true),
    ("SIGIOT", 6, false),
    ("SIGKILL", 9, true),
    ("SIGPIPE", 13, true),
    ("SIGPOLL", 29, false),
    ("SIGPROF", 27, true),
    ("SIGPWR", 30, true),
    ("SIGQUIT", 3, true),
    ("SIGSEGV", 11, true),
    ("SIGSTKFLT", 16, true),
    ("SIGSTOP", 19, true),
    ("SIGSYS", 31, true),
    ("SIGTERM", 15, true),
    ("SIGTRAP", 5, true),
    ("SIGTSTP", 20, true),
    ("SIGTTIN", 21, true),
    ("SIGTTOU", 22, true),
    ("SIGURG", 23, true),
    ("SIGUSR1", 10, true),
    ("SIGUSR2", 12, true),
    ("SIGVTALRM", 26, true),
    ("SIGWINCH", 28, true),
    ("SIGXCPU", 24, true),
    ("SIGXFSZ", 25, true),
];

/// CRI's number of `SIGRTMIN`; the 31 real-time signals follow each other from there.
const CRI_RTMIN: i32 = 35;

/// A word that names no signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a signal (such as SIGTERM, TERM, 15 or RTMIN+3)")]
pub struct UnknownSignal(pub String);

impl Signal {
    /// What stops a container that says nothing else.
    pub const TERM: Self = Self(15);
    /// What stops a container that does not listen.
    pub const KILL: Self = Self(9);

    /// From a Linux number.
    pub fn from_number(number: i32) -> Option<Self> {
        u8::try_from(number)
            .ok()
            .filter(|number| (1..=RTMAX).contains(number))
            .map(Self)
    }

    /// The Linux number.
    pub fn number(self) -> i32 {
        self.0.into()
    }

    /// From CRI's `Signal` enum. `None` for 0 (runtime default) and for numbers outside the enum.
    pub fn from_cri(number: i32) -> Option<Self> {
        if (CRI_RTMIN..=CRI_RTMIN + i32::from(RTMAX - RTMIN)).contains(&number) {
            return Self::from_number(number - CRI_RTMIN + i32::from(RTMIN));
        }
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        NAMED.get(index).map(|&(_, linux, _)| Self(linux))
    }

    /// To CRI's `Signal` enum. `None` for 32 and 33, which it does not have.
    pub fn to_cri(self) -> Option<i32> {
        if self.0 >= RTMIN {
            return Some(i32::from(self.0 - RTMIN) + CRI_RTMIN);
        }
        NAMED
            .iter()
            .zip(1..)
            .find(|((_, linux, usual), _)| *linux == self.0 && *usual)
            .map(|(_, number)| number)
    }

    /// The name with `SIG`, such as `SIGTERM` or `SIGRTMIN+3`.
    pub fn name(self) -> String {
        match self.0 {
            RTMIN => "SIGRTMIN".to_owned(),
            RTMAX => "SIGRTMAX".to_owned(),
            number if number > RTMIN => format!("SIGRTMIN+{}", number - RTMIN),
            number => NAMED
                .iter()
                .find(|(_, linux, usual)| *linux == number && *usual)
                .map_or_else(|| number.to_string(), |(name, ..)| (*name).to_owned()),
        }
    }

    /// The signal that stops a container: the request's (a number of CRI's enum), else the image's, else SIGTERM.
    /// An image whose stop signal makes no sense is stopped like one that has none.
    pub fn to_stop(request: i32, image: Option<&str>) -> Self {
        Self::from_cri(request)
            .or_else(|| image.and_then(|word| word.parse().ok()))
            .unwrap_or(Self::TERM)
    }
}

/// [`Signal::from_str`] as a function.
pub fn parse(word: &str) -> Result<Signal, UnknownSignal> {
    word.parse()
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// Understands `SIGTERM`, `TERM`, `15`, `RTMIN`, `SIGRTMIN+3`, `RTMAX-2`, in any case.
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownSignal(word.to_owned());
        if word.bytes().all(|byte| byte.is_ascii_digit()) {
            return word
                .parse()
                .ok()
                .and_then(Self::from_number)
                .ok_or_else(unknown);
        }
        let upper = word.to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        let offset = |digits: &str| -> Option<u8> {
            digits
                .bytes()
                .all(|byte| byte.is_ascii_digit())
                .then(|| digits.parse().ok())?
                .filter(|offset| *offset <= RTMAX - RTMIN)
        };
        let number = if let Some(rest) = bare.strip_prefix("RTMIN") {
            match rest.strip_prefix('+') {
                Some(digits) => offset(digits).map(|offset| RTMIN + offset),
                None => rest.is_empty().then_some(RTMIN),
            }
        } else if let Some(rest) = bare.strip_prefix("RTMAX") {
            match rest.strip_prefix('-') {
                Some(digits) => offset(digits).map(|offset| RTMAX - offset),
                None => rest.is_empty().then_some(RTMAX),
            }
        } else {
            NAMED
                .iter()
                .find(|(name, ..)| name.strip_prefix("SIG") == Some(bare))
                .map(|&(_, linux, _)| linux)
        };
        number.map(Self).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("SIGTERM", 15)]
    #[case("TERM", 15)]
    #[case("term", 15)]
    #[case("15", 15)]
    #[case("9", 9)]
    #[case("SIGIOT", 6)]
    #[case("SIGPOLL", 29)]
    #[case("RTMIN", 34)]
    #[case("SIGRTMIN+3", 37)]
    #[case("RTMIN+30", 64)]
    #[case("RTMAX", 64)]
    #[case("SIGRTMAX-14", 50)]
    #[case("64", 64)]
    fn words_are_understood(#[case] word: &str, #[case] number: i32) {
        assert_eq!(parse(word).unwrap().number(), number);
    }

    #[rstest]
    #[case("")]
    #[case("0")]
    #[case("65")]
    #[case("-1")]
    #[case("99999999999999999999")]
    #[case("SIG")]
    #[case("SIGSIGTERM")]
    #[case("RTMIN+")]
    #[case("RTMIN+31")]
    #[case("RTMIN-1")]
    #[case("RTMAX+1")]
    #[case("RTMIN++1")]
    #[case("RTMIN3")]
    #[case("KILL ")]
    fn other_words_are_refused(#[case] word: &str) {
        assert_eq!(parse(word).unwrap_err(), UnknownSignal(word.to_owned()));
    }

    #[rstest]
    #[case(1, "SIGABRT")]
    #[case(5, "SIGCHLD")]
    #[case(12, "SIGABRT")]
    #[case(13, "SIGKILL")]
    #[case(15, "SIGIO")]
    #[case(23, "SIGTERM")]
    #[case(34, "SIGXFSZ")]
    #[case(35, "SIGRTMIN")]
    #[case(50, "SIGRTMIN+15")]
    #[case(51, "SIGRTMIN+16")]
    #[case(65, "SIGRTMAX")]
    fn cri_numbers_are_those_of_the_enum(#[case] cri: i32, #[case] name: &str) {
        assert_eq!(Signal::from_cri(cri).unwrap().name(), name);
    }

    #[rstest]
    #[case(0)]
    #[case(-1)]
    #[case(66)]
    #[case(i32::MAX)]
    #[case(i32::MIN)]
    fn other_cri_numbers_are_none(#[case] cri: i32) {
        assert_eq!(Signal::from_cri(cri), None);
    }

    #[test]
    fn names_and_cri_numbers_lead_back() {
        for number in 1..=64 {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(parse(&signal.name()).unwrap(), signal);
            match signal.to_cri() {
                Some(cri) => assert_eq!(Signal::from_cri(cri), Some(signal)),
                None => assert!(number == 32 || number == 33),
            }
        }
    }

    #[rstest]
    #[case(0, None, "SIGTERM")]
    #[case(0, Some("SIGQUIT"), "SIGQUIT")]
    #[case(0, Some("nonsense"), "SIGTERM")]
    #[case(13, Some("SIGQUIT"), "SIGKILL")]
    fn the_request_wins_over_the_image(
        #[case] request: i32,
        #[case] image: Option<&str>,
        #[case] name: &str,
    ) {
        assert_eq!(Signal::to_stop(request, image).name(), name);
    }
}
