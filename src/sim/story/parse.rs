//! Text to story: one statement a line, and every line that cannot be played named with its place, what was expected and
//! how to say it.

use std::ops::Range;
use std::str::FromStr;

use super::{Condition, Fact, Line, Members, Named, Source as Metrics, Statement, Story, Wanted, Who};
use crate::core::actor::ActorKind;
use crate::core::input::{LookFault, Parts, Verb};
use crate::core::reason::Reason;
use crate::core::record::Decision;
use crate::core::spec::{Percent, Trust};
use crate::core::state::PhaseKind;
use crate::core::time::Span;
use crate::sim::house;
use crate::sim::world::FlagService;
use crate::spec::{Finding, Source, code};

/// Longest story, in bytes.
const BYTES_MAX: usize = 64 * 1024;
/// Most lines that say something.
const STATEMENTS_MAX: usize = 500;
/// Most findings that are told at once.
const FINDINGS_MAX: usize = 20;
/// Longest time that one line may take.
const SPAN_MAX: Span = Span::seconds(6 * 3600);
/// How long a story may take in all.
const LENGTH_MAX: Span = Span::seconds(24 * 3600);
/// Most requests a second.
const TRAFFIC_MAX: u64 = 10_000;
/// How long `wait until` waits, where the line does not say.
const UNTIL: Span = Span::minutes(10);

type Parsed<T> = Result<T, Box<Finding>>;

/// What a line about the world begins with: what it is about.
const SUBJECTS: [&str; 17] = [
    "traffic",
    "everything",
    "prometheus",
    "registry",
    "flag service",
    "store",
    "host",
    "pager",
    "controller dies for",
    "clock steps",
    "gitops",
    "neighbours breaching",
    "policy demands",
    "alert",
    "evidence of",
    "image of",
    "members of",
];

impl Story {
    /// Reads a story; `name` is what people know the file by.
    ///
    /// # Errors
    /// Every line that cannot be played.
    pub fn parse(name: &str, text: &str) -> Result<Self, Vec<Finding>> {
        if text.len() > BYTES_MAX {
            let what = format!("{name} has {} bytes", text.len());
            return Err(vec![Finding::error(code::TOO_LARGE, what).expected(format!("at most {BYTES_MAX}"))]);
        }
        let source = Source::new(name, text);
        let mut story = Self { title: name.to_owned(), strategy: house::canary(), lines: Vec::new() };
        let mut findings = Vec::new();
        let mut at = 0;
        for (index, line) in text.split_inclusive('\n').enumerate() {
            let said = line.split('#').next().unwrap_or_default();
            let mut words = Words::new(&source, text, at..at + said.trim_end().len());
            at += line.len();
            if words.is_empty() {
                continue;
            }
            let parsed = story.line(&mut words, index + 1).and_then(|()| words.end());
            findings.extend(parsed.err().map(|finding| *finding));
            if findings.len() >= FINDINGS_MAX || story.lines.len() > STATEMENTS_MAX {
                break;
            }
        }
        if story.lines.len() > STATEMENTS_MAX {
            findings.push(Finding::error(code::STORY, format!("{name} says more than {STATEMENTS_MAX} things")));
        }
        if story.length() > LENGTH_MAX {
            let what = format!("{name} takes {} in all", story.length());
            findings.push(Finding::error(code::STORY, what).expected(format!("at most {LENGTH_MAX}: every second of it is played")));
        }
        if story.lines.is_empty() && findings.is_empty() {
            let fix = "begin with `person ann deploys v1`".to_owned();
            findings.push(Finding::error(code::EMPTY, format!("{name} says nothing")).fix(fix));
        }
        if findings.is_empty() { Ok(story) } else { Err(findings) }
    }

    fn line(&mut self, words: &mut Words<'_>, number: usize) -> Parsed<()> {
        if words.take("story") {
            words.rest().clone_into(&mut self.title);
            return Ok(());
        }
        if words.take("strategy") {
            let choices = [("canary", 0), ("blue-green", 1), ("observe", 2)];
            let choice = words.choose(&choices)?;
            if !self.lines.is_empty() {
                return Err(words.wrong_before("the strategy is fixed once something has happened", "it above everything but `story`"));
            }
            self.strategy = [house::canary(), house::blue_green(), house::observe()][choice].clone();
            return Ok(());
        }
        let text = words.text().to_owned();
        let does = words.statement()?;
        self.lines.push(Line { number, text, does });
        Ok(())
    }
}

/// What is left of a line, word by word.
struct Words<'a> {
    source: &'a Source,
    text: &'a str,
    /// Bytes of the whole text that are not read yet.
    left: Range<usize>,
    /// The word that was read last.
    last: Range<usize>,
}

impl<'a> Words<'a> {
    fn new(source: &'a Source, text: &'a str, left: Range<usize>) -> Self {
        let mut words = Self { source, text, last: left.start..left.start, left };
        words.skip();
        words
    }

    fn skip(&mut self) {
        let rest = &self.text[self.left.clone()];
        self.left.start += rest.len() - rest.trim_start().len();
    }

    fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    fn text(&self) -> &'a str {
        &self.text[self.left.clone()]
    }

    fn rest(&mut self) -> &'a str {
        let text = self.text();
        self.left.start = self.left.end;
        text
    }

    fn peek(&self) -> &'a str {
        self.text().split_whitespace().next().unwrap_or_default()
    }

    fn next(&mut self) -> &'a str {
        let word = self.peek();
        self.last = self.left.start..self.left.start + word.len();
        self.left.start += word.len();
        self.skip();
        word
    }

    /// Reads `phrase` if it comes next.
    fn take(&mut self, phrase: &str) -> bool {
        let (left, last) = (self.left.clone(), self.last.clone());
        if phrase.split(' ').all(|word| self.next() == word) {
            return true;
        }
        (self.left, self.last) = (left, last);
        false
    }

    fn end(&mut self) -> Parsed<()> {
        if self.is_empty() { Ok(()) } else { Err(self.wrong("the line to end here", "write what follows on a line of its own")) }
    }

    /// What comes next is not what was expected.
    fn wrong(&self, expected: impl Into<String>, fix: impl Into<String>) -> Box<Finding> {
        let found = self.peek();
        let message = if found.is_empty() { "the line ends too early".to_owned() } else { format!("`{found}` is not understood here") };
        let place = self.source.place(self.left.start..self.left.start + found.len());
        Box::new(Finding::error(code::STORY, message).at(place).expected(expected).fix(fix))
    }

    /// What was just read cannot be so.
    fn wrong_before(&self, message: impl Into<String>, expected: impl Into<String>) -> Box<Finding> {
        Box::new(Finding::error(code::STORY, message).at(self.source.place(self.last.clone())).expected(expected))
    }

    /// Reads one of `choices`, the first that fits.
    fn choose<T: Clone>(&mut self, choices: &[(&str, T)]) -> Parsed<T> {
        if let Some((_, choice)) = choices.iter().find(|(phrase, _)| self.take(phrase)) {
            return Ok(choice.clone());
        }
        let phrases: Vec<&str> = choices.iter().map(|(phrase, _)| *phrase).collect();
        let found = self.text();
        let near = phrases.iter().map(|phrase| (strsim::jaro_winkler(phrase, found), *phrase)).max_by(|a, b| a.0.total_cmp(&b.0));
        let fix = match near {
            Some((likeness, phrase)) if likeness > 0.8 => format!("write `{phrase}`"),
            _ => format!("write `{}`, for example", phrases[0]),
        };
        let list = phrases.iter().map(|phrase| format!("`{phrase}`")).collect::<Vec<_>>().join(", ");
        Err(self.wrong(if phrases.len() > 1 { format!("one of {list}") } else { list }, fix))
    }

    fn word(&mut self, phrase: &str) -> Parsed<()> {
        self.choose(&[(phrase, ())])
    }

    fn value<T: FromStr>(&mut self, expected: &str, example: &str) -> Parsed<T> {
        match self.peek().parse() {
            Ok(value) => {
                self.next();
                Ok(value)
            }
            Err(_) => Err(self.wrong(expected, format!("write `{example}`, for example"))),
        }
    }

    fn span(&mut self) -> Parsed<Span> {
        let span: Span = self.value("a span of time without spaces", "30s")?;
        if span > SPAN_MAX { Err(self.wrong_before(format!("`{span}` is too long"), format!("at most {SPAN_MAX}"))) } else { Ok(span) }
    }

    fn share(&mut self) -> Parsed<f64> {
        Ok(self.value::<Percent>("a share from 0% to 100%", "5%")?.fraction())
    }

    fn name(&mut self, what: &str, example: &str) -> Parsed<String> {
        let name = self.peek();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 40 || !name.chars().all(plain) {
            return Err(self.wrong(format!("{what}, of letters, digits, `-`, `_` and `.`"), format!("write `{example}`, for example")));
        }
        Ok(self.next().to_owned())
    }

    /// `v2`, or `v2.1`.
    fn release(&mut self) -> Parsed<Named> {
        let named = self.peek().strip_prefix('v').and_then(|numbers| {
            let (image, touch) = numbers.split_once('.').unwrap_or((numbers, "0"));
            let (image, touch) = (image.parse::<u16>().ok()?, touch.parse::<u16>().ok()?);
            Some(Named { image: format!("v{image}"), touch: touch.into() })
        });
        match named {
            Some(named) => {
                self.next();
                Ok(named)
            }
            None => Err(self.wrong("a release", "write `v2`, or `v2.1` for the same image under another template")),
        }
    }

    fn code(&mut self) -> Parsed<&'static str> {
        let wanted = self.peek();
        match Reason::TABLE.iter().find(|(code, _, _)| *code == wanted) {
            Some((code, _, _)) => {
                self.next();
                Ok(code)
            }
            None => Err(self.wrong("a reason's code", "`backstop explain BS001` tells what a code means; ARCHITECTURE.md names them")),
        }
    }

    fn code_if_any(&mut self) -> Parsed<Option<&'static str>> {
        if self.peek().starts_with("BS") { self.code().map(Some) } else { Ok(None) }
    }

    fn statement(&mut self) -> Parsed<Statement> {
        if self.take("wait until") {
            let wanted = self.wanted()?;
            let within = if self.take("within") { self.span()? } else { UNTIL };
            return Ok(Statement::Until(wanted, within));
        }
        if self.take("wait") {
            return Ok(Statement::Wait(self.span()?));
        }
        if self.take("expect") {
            let wanted = self.wanted()?;
            return match () {
                () if self.take("for") => Ok(Statement::Holds(wanted, self.span()?)),
                () if self.take("within") => Ok(Statement::Until(wanted, self.span()?)),
                () => Ok(Statement::Until(wanted, Span::default())),
            };
        }
        let kinds = [("person", ActorKind::Human), ("agent", ActorKind::Agent), ("pipeline", ActorKind::Automation)];
        for (word, kind) in kinds {
            if self.take(word) {
                let name = self.name("a name", "ann")?;
                return self.act(Who { kind, name });
            }
        }
        if !self.peek().starts_with('v') {
            return self.fact().map(Statement::Fact);
        }
        let release = self.release()?;
        if self.take("is known good") { Ok(Statement::Serves(release)) } else { self.of_release(release).map(Statement::Fact) }
    }

    fn act(&mut self, who: Who) -> Parsed<Statement> {
        const VERBS: [(&str, &str); 12] = [
            ("deploys", "deploys"),
            ("reverts", "reverts"),
            ("lifts", "lifts"),
            ("pauses", "pauses"),
            ("resumes", "resumes"),
            ("promotes", "promotes"),
            ("approves", "approves"),
            ("freezes", "freezes"),
            ("thaws", "thaws"),
            ("disarms for", "disarms"),
            ("arms", "arms"),
            ("adopts", "adopts"),
        ];
        let (mut verb, mut release) = (Verb::Pause, None);
        match self.choose(&VERBS)? {
            "deploys" => return Ok(Statement::Deploys(who, self.release()?)),
            "reverts" => {
                if self.take("to") {
                    release = Some(self.release()?);
                }
                let parts = match () {
                    () if self.take("traffic only") => Parts::Traffic,
                    () if self.take("flags only") => Parts::Flags,
                    () => Parts::All,
                };
                verb = Verb::Revert { to: None, parts, break_glass: self.take("by breaking glass") };
            }
            "lifts" => {
                if !self.is_empty() {
                    release = Some(self.release()?);
                }
                verb = Verb::Lift { release: None };
            }
            "disarms" => verb = Verb::Disarm { span: self.span()? },
            "resumes" => verb = Verb::Resume,
            "promotes" => verb = Verb::Promote,
            "approves" => verb = Verb::Approve,
            "freezes" => verb = Verb::Freeze,
            "thaws" => verb = Verb::Thaw,
            "arms" => verb = Verb::Arm,
            "adopts" => verb = Verb::Adopt,
            _ => {}
        }
        Ok(Statement::Commands(who, verb, release))
    }

    fn wanted(&mut self) -> Parsed<Wanted> {
        let start = self.left.start;
        let not = self.take("not");
        let what = self.condition()?;
        let text = self.text_between(start);
        Ok(Wanted { text, not, what })
    }

    fn text_between(&self, start: usize) -> String {
        self.text[start..self.left.start].trim_end().to_owned()
    }

    fn condition(&mut self) -> Parsed<Condition> {
        const WORDS: [&str; 13] = [
            "phase",
            "traffic on",
            "release",
            "paged",
            "told",
            "accepted",
            "refused",
            "waiting for",
            "decided to",
            "known good",
            "quarantined",
            "flag safe",
            "fewer than",
        ];
        Ok(match self.choose(&WORDS.map(|word| (word, word)))? {
            "phase" => Condition::Phase(self.phase()?),
            "traffic on" => {
                let release = self.release()?;
                let share = if self.peek().ends_with('%') { Percent::new(self.share()? * 100.0) } else { Percent::FULL };
                Condition::Traffic(release, share)
            }
            "release" => Condition::Own(self.release()?),
            "paged" => Condition::Paged(self.code_if_any()?),
            "told" => Condition::Told(self.code_if_any()?),
            "accepted" => Condition::Answered(true, self.code_if_any()?),
            "refused" => Condition::Answered(false, self.code_if_any()?),
            "waiting for" => Condition::Waiting(self.code()?),
            "decided to" => {
                let decision = self.decision()?;
                let code = if self.take("for") || self.peek().starts_with("BS") { Some(self.code()?) } else { None };
                Condition::Decided(decision, code)
            }
            "known good" => Condition::KnownGood(self.release()?),
            "quarantined" => Condition::Quarantined(self.release()?),
            "flag safe" => Condition::FlagSafe,
            _ => {
                let count = self.value("a number", "100")?;
                self.word("bad requests")?;
                Condition::FewerBad(count)
            }
        })
    }

    fn phase(&mut self) -> Parsed<PhaseKind> {
        let names: Vec<(String, PhaseKind)> = PhaseKind::ALL.iter().map(|kind| (kind.to_string(), *kind)).collect();
        let choices: Vec<(&str, PhaseKind)> = names.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
        self.choose(&choices)
    }

    fn decision(&mut self) -> Parsed<Decision> {
        let choices: Vec<(&str, Decision)> = Decision::ALL.iter().map(|decision| (decision.words(), *decision)).collect();
        self.choose(&choices)
    }

    fn fact(&mut self) -> Parsed<Fact> {
        if self.is_empty() || !SUBJECTS.iter().any(|subject| self.peek() == subject.split(' ').next().unwrap_or_default()) {
            let list = SUBJECTS.map(|subject| format!("`{subject}`")).join(", ");
            let expected = format!("`person`, `agent`, `pipeline`, `wait`, `expect`, a release such as `v2`, or one of {list}");
            return Err(self.wrong(expected, "see examples/*.story for every form"));
        }
        match self.choose(&SUBJECTS.map(|subject| (subject, subject)))? {
            "traffic" => self.traffic(),
            "everything" => self.everything(),
            "prometheus" => self.metrics(),
            "registry" => self.choose(&[("is down", Fact::Registry(false)), ("is back", Fact::Registry(true))]),
            "flag service" => self.choose(&[
                ("is down", Fact::Flags(FlagService::Down)),
                ("is back", Fact::Flags(FlagService::Obeys)),
                ("denies", Fact::Flags(FlagService::Denies)),
                ("lies", Fact::Flags(FlagService::Lies)),
            ]),
            "store" => self.away().map(Fact::Store),
            "host" => self.away().map(Fact::Host),
            "pager" => self.choose(&[("is down", Fact::Webhook(false)), ("is back", Fact::Webhook(true))]),
            "controller dies for" => self.span().map(Fact::Dies),
            "evidence of" => {
                let release = self.release()?;
                self.choose(&[("is tampered with", Fact::Tampered(release))])
            }
            "image of" => {
                let release = self.release()?;
                self.choose(&[("is gone from the registry", Fact::Gone(release))])
            }
            "members of" => self.members(),
            around => self.around(around),
        }
    }

    /// Clocks, other people's machines, neighbours, policies and alerts.
    fn around(&mut self, subject: &str) -> Parsed<Fact> {
        match subject {
            "clock steps" => {
                let sign = self.choose(&[("forward", 1), ("back", -1)])?;
                Ok(Fact::Clock(sign * i64::try_from(self.span()?.millis()).unwrap_or_default()))
            }
            "gitops" => {
                if self.take("lets go") {
                    return Ok(Fact::LetsGo);
                }
                self.word("puts back")?;
                let release = self.release()?;
                self.word("every")?;
                Ok(Fact::PutsBack(release, self.span()?))
            }
            "neighbours breaching" => {
                let breaching = self.value("how many", "5")?;
                self.word("of")?;
                Ok(Fact::Neighbours(breaching, self.value("how many are watched", "20")?))
            }
            "policy demands" => {
                let approvals = self.value("how many", "1")?;
                self.choose(&[("approvals", ()), ("approval", ())])?;
                Ok(Fact::Approvals(approvals))
            }
            _ => {
                let name = self.name("the alert's name", "Burning")?;
                let firing = self.choose(&[("fires", true), ("ends", false)])?;
                let trust = if self.take("and may revert") { Trust::Revert } else { Trust::Wait };
                Ok(Fact::Alert(name, firing, trust))
            }
        }
    }

    fn traffic(&mut self) -> Parsed<Fact> {
        let rate = self.peek().strip_suffix("/s").and_then(|rate| rate.parse().ok()).filter(|rate| *rate <= TRAFFIC_MAX);
        let Some(rate) = rate else {
            return Err(self.wrong(format!("requests a second, at most {TRAFFIC_MAX}"), "write `100/s`, for example"));
        };
        self.next();
        Ok(Fact::Traffic(rate))
    }

    fn everything(&mut self) -> Parsed<Fact> {
        if self.take("is healthy") {
            return Ok(Fact::OutageOver);
        }
        self.word("fails")?;
        let share = self.share()?;
        let span = if self.take("for") { Some(self.span()?) } else { None };
        Ok(Fact::Outage(share, span))
    }

    fn metrics(&mut self) -> Parsed<Fact> {
        let fails = |fault: LookFault| Fact::Source(Metrics::Fails(fault));
        self.choose(&[
            ("is down", fails(LookFault::Down("connection refused".into()))),
            ("hangs", fails(LookFault::Down("no answer in time".into()))),
            ("answers NaN", fails(LookFault::Invalid("the value is NaN".into()))),
            ("answers in part", fails(LookFault::Partial("one shard did not answer".into()))),
            ("rejects the query", fails(LookFault::Rejected("parse error".into()))),
            ("is stale", Fact::Source(Metrics::Stale)),
            ("is back", Fact::Source(Metrics::Answers)),
        ])
    }

    fn away(&mut self) -> Parsed<Option<Span>> {
        if self.take("is back") {
            return Ok(None);
        }
        self.word("is down for")?;
        self.span().map(Some)
    }

    fn members(&mut self) -> Parsed<Fact> {
        let release = self.release()?;
        let how = self.choose(&[
            ("die and start again", Members::Die),
            ("are down", Members::Down),
            ("are ready", Members::Unready(0)),
            ("crash in a loop", Members::CrashLoop),
        ])?;
        Ok(Fact::Members(release, how))
    }

    fn of_release(&mut self, release: Named) -> Parsed<Fact> {
        let words = ["is known good", "fails", "makes", "is healthy", "is attested", "is not attested", "has 1 of 2 members ready"];
        Ok(match self.choose(&words.map(|word| (word, word)))? {
            "fails" => {
                let share = self.share()?;
                match () {
                    () if self.take("while the flag is safe") => Fact::FailsFlipped(release, share),
                    () if self.take("after") => Fact::Fails(release, share, self.span()?),
                    () => Fact::Fails(release, share, Span::default()),
                }
            }
            "makes" => {
                let share = self.share()?;
                self.word("of everything fail")?;
                Fact::Harms(release, share)
            }
            "is healthy" => Fact::Healthy(release),
            "is attested" => Fact::Attested(release, true),
            "is not attested" => Fact::Attested(release, false),
            _ => Fact::Members(release, Members::Unready(1)),
        })
    }
}
