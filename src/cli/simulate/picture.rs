//! One life, drawn: on a terminal, and as SVG.

use std::fmt::Write as _;

use crate::cli::text::{Paint, brief, clean, whole};
use crate::sim::rehearsal::{Film, Frame, Mark, Word};

/// Columns of the picture on a terminal.
const COLUMNS: usize = 72;
/// Heights of a cell.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// A life is drawn until so many seconds after its last mark, and never longer than it took.
const TAIL: usize = 20;
/// Seconds that errors are averaged over.
const OVER: usize = 10;

/// The part of a life that is worth drawing.
struct Scene<'a> {
    frames: &'a [Frame],
    marks: &'a [Mark],
    limit: f64,
}

impl<'a> Scene<'a> {
    fn of(film: &'a Film) -> Self {
        let last = film.marks.iter().map(|mark| usize::try_from(mark.at / 1000).unwrap_or_default()).max().unwrap_or_default();
        let shown = (last + TAIL.max(last / 10)).clamp(60, film.frames.len().max(60)).min(film.frames.len());
        Self { frames: &film.frames[..shown], marks: &film.marks, limit: film.limit }
    }

    /// Share of bad requests of an arm in the last seconds; absent without requests.
    fn errors(&self, second: usize, arm: fn(&Frame) -> (u64, u64)) -> Option<f64> {
        let some = &self.frames[(second + 1).saturating_sub(OVER)..=second];
        let (total, bad) = some.iter().map(arm).fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
        (total > 0 && arm(&self.frames[second]).0 > 0).then(|| bad as f64 / total as f64)
    }

    fn top(&self) -> f64 {
        let all = (0..self.frames.len()).flat_map(|second| [self.errors(second, candidate), self.errors(second, stable)]).flatten();
        all.fold(self.limit * 2.0, f64::max)
    }
}

fn candidate(frame: &Frame) -> (u64, u64) {
    frame.candidate
}

fn stable(frame: &Frame) -> (u64, u64) {
    frame.stable
}

/// What both tests say: both must alarm.
fn evidence(frame: &Frame) -> Option<f64> {
    frame.evidence.map(|(objective, baseline)| baseline.map_or(objective, |baseline| baseline.min(objective)).max(0.0))
}

/// A life for a terminal.
pub(super) fn text(film: &Film, title: &str, paint: Paint) -> String {
    let scene = Scene::of(film);
    let seconds = scene.frames.len();
    if seconds == 0 {
        return String::new();
    }
    let columns = COLUMNS.min(seconds);
    let cells = |column: usize| column * seconds / columns..((column + 1) * seconds / columns).max(column * seconds / columns + 1);
    let row = |value: &dyn Fn(usize) -> Option<f64>, top: f64| -> String {
        let most = |column| cells(column).filter_map(value).reduce(f64::max);
        (0..columns).map(|column| cell(most(column), top)).collect()
    };
    let top = scene.top();
    let mut text = format!("{}\n\n", paint.bold(title));
    let mut line = |name: &str, drawn: &str, note: &str| {
        let _ = writeln!(text, "{name:>17} {drawn}  {}", paint.dim(note));
    };
    line("candidate gets", &row(&|second| Some(scene.frames[second].weight), 1.0), "of 100%");
    let percent = |share: f64| format!("{:.2}%", share * 100.0);
    let note = format!("of {}; limit {}", percent(top), percent(scene.limit));
    line("candidate's bad", &paint.bad(&row(&|second| scene.errors(second, candidate), top)), &note);
    line("stable's bad", &row(&|second| scene.errors(second, stable), top), &note);
    line("evidence", &paint.warn(&row(&|second| evidence(&scene.frames[second]), 1.0)), "full: alarm");
    let verdicts = (0..columns).map(|column| {
        let words = cells(column).filter_map(|second| scene.frames[second].verdict);
        match words.max_by_key(|word| *word as u8) {
            Some(Word::Breach) => '!',
            Some(Word::Inconclusive) => '?',
            Some(Word::Pass) => '✓',
            None => ' ',
        }
    });
    line("verdict", &verdicts.collect::<String>(), "✓ pass, ? wait, ! breach");
    let mut letters = vec![' '; columns];
    let mut legend = String::new();
    for (mark, letter) in scene.marks.iter().zip('a'..='z') {
        let second = usize::try_from(mark.at / 1000).unwrap_or_default().min(seconds - 1);
        let column = second * columns / seconds;
        let free = (column..columns).find(|column| letters[*column] == ' ').unwrap_or(columns - 1);
        letters[free] = letter;
        let what = brief(&mark.what, 104);
        let what = if mark.grave { paint.bad(&what) } else { what };
        let _ = writeln!(legend, "{:>17} {letter}  {:>7}  {what}", "", whole(mark.at / 1000));
    }
    line("", &letters.into_iter().collect::<String>(), &whole(seconds as u64));
    format!("{text}\n{legend}")
}

fn cell(value: Option<f64>, top: f64) -> char {
    let Some(value) = value else { return ' ' };
    if value <= 0.0 {
        return '·';
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 7")]
    let level = ((value / top).clamp(0.0, 1.0) * 8.0).ceil() as usize;
    LEVELS[level.clamp(1, 8) - 1]
}

/// Sizes of the drawing.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 24.0;
const PANEL: f64 = 110.0;
const GAP: f64 = 26.0;
const TOP: f64 = 88.0;

/// A life as a picture that stands alone.
pub(super) fn svg(film: &Film, title: &str) -> String {
    let scene = Scene::of(film);
    let seconds = scene.frames.len().max(1);
    let x = |second: f64| LEFT + second / seconds as f64 * (WIDTH - LEFT - RIGHT);
    let panel = |index: usize| TOP + index as f64 * (PANEL + GAP);
    let strip = panel(3);
    let legend = strip + 44.0;
    let height = legend + 20.0 * scene.marks.len() as f64 + 28.0;
    let mut svg = head(height, title);
    let share = |share: f64| format!("{:.1} %", share * 100.0);
    let top = scene.top();
    let names = [("traffic", "100 %".to_owned()), ("bad requests", share(top)), ("evidence", "alarm".to_owned())];
    for (index, (name, most)) in names.iter().enumerate() {
        let y = panel(index);
        let _ = write!(
            svg,
            r#"<rect class="panel" x="{LEFT}" y="{y}" width="{}" height="{PANEL}"/><text class="name" x="16" y="{}">{name}</text><text class="dim" x="{}" y="{}" text-anchor="end">{most}</text>"#,
            WIDTH - LEFT - RIGHT,
            y + PANEL / 2.0 + 4.0,
            LEFT - 8.0,
            y + 10.0
        );
    }
    let mut line = |class: &str, index: usize, value: &dyn Fn(usize) -> Option<f64>| {
        let path = path(seconds, |second| Some((x(second as f64 + 0.5), panel(index) + PANEL * (1.0 - value(second)?.clamp(0.0, 1.0)))));
        let _ = writeln!(svg, r#"<path class="{class}" d="{path}"/>"#);
    };
    let frames = scene.frames;
    line("weight", 0, &|second| Some(frames.get(second)?.weight));
    line("stable", 1, &|second| Some(scene.errors(second, stable)? / top));
    line("candidate", 1, &|second| Some(scene.errors(second, candidate)? / top));
    line("limit", 1, &|_| Some(scene.limit / top));
    line("objective", 2, &|second| Some(frames.get(second)?.evidence?.0 / 1.05));
    line("compared", 2, &|second| Some(frames.get(second)?.evidence?.1? / 1.05));
    line("limit", 2, &|_| Some(1.0 / 1.05));
    verdicts(&mut svg, frames, strip, x);
    key(&mut svg, panel);
    let _ = writeln!(svg, r#"<text class="dim" x="{LEFT}" y="{}">0 s</text>"#, strip + 30.0);
    let _ =
        writeln!(svg, r#"<text class="dim" x="{}" y="{}" text-anchor="end">{}</text>"#, WIDTH - RIGHT, strip + 30.0, whole(seconds as u64));
    for (index, mark) in scene.marks.iter().enumerate() {
        let (at, class) = (x(mark.at as f64 / 1000.0), if mark.grave { "grave" } else { "mark" });
        let letter = char::from(b'a' + u8::try_from(index % 26).unwrap_or_default());
        // Letters of marks that lie close together alternate in height.
        let (y, below) = (TOP - 26.0 - 12.0 * (index % 2) as f64, legend + 20.0 * (index as f64 + 1.0));
        let _ = writeln!(
            svg,
            r#"<path class="{class} rule" d="M{at:.1} {}V{}"/><text class="{class}" x="{at:.1}" y="{y}" text-anchor="middle">{letter}</text><text class="{class}" x="{LEFT}" y="{below}">{letter}  {}  {}</text>"#,
            TOP - 22.0,
            strip + 14.0,
            whole(mark.at / 1000),
            escaped(&brief(&mark.what, 116))
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn head(height: f64, title: &str) -> String {
    let title = escaped(&clean(title));
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="t">
<title id="t">{title}</title>
<style>text{{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:12px;fill:#d5dae1;white-space:pre}}.title{{font-weight:700;fill:#fff}}.name,.dim{{fill:#9aa4b0}}.panel{{fill:#181d25;stroke:#2b333d}}path{{fill:none;stroke-width:1.6}}.weight{{stroke:#58a6ff}}.candidate{{stroke:#ff7b72}}.stable{{stroke:#56d364}}.objective{{stroke:#e3b341}}.compared{{stroke:#d2a8ff}}.limit{{stroke:#7d8794;stroke-dasharray:4 4;stroke-width:1}}.rule{{stroke-width:1;stroke-dasharray:2 3;stroke:#58626e}}.grave.rule{{stroke:#ff7b72}}text.grave{{fill:#ff7b72}}</style>
<rect width="{WIDTH}" height="{height}" rx="8" fill="#12161c"/>
<text class="title" x="16" y="24">{title}</text>
"##
    )
}

/// What the lines are.
fn key(svg: &mut String, panel: impl Fn(usize) -> f64) {
    let keys = [
        (0, vec![("#58a6ff", "candidate's share")]),
        (1, vec![("#ff7b72", "candidate"), ("#56d364", "stable"), ("#7d8794", "limit")]),
        (2, vec![("#e3b341", "against the objective"), ("#d2a8ff", "against stable")]),
    ];
    for (index, names) in keys {
        for (place, (color, name)) in names.into_iter().enumerate() {
            let (x, y) = (LEFT + 190.0 * place as f64, panel(index) - 7.0);
            let _ = writeln!(svg, r#"<text x="{x}" y="{y}" style="fill:{color}">— {name}</text>"#);
        }
    }
}

/// A strip that is coloured by verdict.
fn verdicts(svg: &mut String, frames: &[Frame], y: f64, x: impl Fn(f64) -> f64) {
    let _ = write!(svg, r#"<text class="name" x="16" y="{}">verdict</text>"#, y + 11.0);
    let mut from = 0;
    for second in 1..=frames.len() {
        let now = frames[from].verdict;
        if second < frames.len() && frames[second].verdict == now {
            continue;
        }
        if let Some(word) = now {
            let color = match word {
                Word::Pass => "#56d364",
                Word::Inconclusive => "#8a7430",
                Word::Breach => "#ff7b72",
            };
            let (left, right) = (x(from as f64), x(second as f64));
            let _ = write!(svg, r#"<rect x="{left:.1}" y="{y}" width="{:.1}" height="14" fill="{color}"/>"#, right - left);
        }
        from = second;
    }
    let legend = [("#56d364", "pass"), ("#8a7430", "wait"), ("#ff7b72", "breach")];
    for (place, (color, name)) in legend.into_iter().enumerate() {
        let _ = write!(svg, r#"<text x="{}" y="{}" style="fill:{color}">■ {name}</text>"#, LEFT + 80.0 + 80.0 * place as f64, y + 30.0);
    }
}

fn path(seconds: usize, point: impl Fn(usize) -> Option<(f64, f64)>) -> String {
    let (mut path, mut drawing) = (String::new(), false);
    for second in 0..seconds {
        match point(second) {
            Some((x, y)) => {
                let _ = write!(path, "{}{x:.1} {y:.1}", if drawing { "L" } else { "M" });
                drawing = true;
            }
            None => drawing = false,
        }
    }
    path
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
