//! Tests of reading expositions.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Read = (String, BTreeMap<String, String>, f64, Option<i64>);

fn read_as(format: Format, text: &str) -> Result<Vec<Read>, String> {
    let body = Body { bytes: text.as_bytes(), format, complete: true };
    let read = parse(body, |_| true).map_err(|invalid| invalid.to_string())?;
    Ok(read
        .counters
        .into_iter()
        .map(|counter| {
            let labels = counter.labels.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
            (counter.metric.into_owned(), labels, counter.value, counter.at)
        })
        .collect())
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// One line, as text 0.0.4.
fn line(text: &str) -> Read {
    let mut read = read_as(Format::Text, text).unwrap();
    assert_eq!(read.len(), 1, "{text}");
    read.remove(0)
}

#[test]
fn label_values_may_hold_anything() {
    for (written, value) in [
        ("/users/{id}", "/users/{id}"),
        ("a,b", "a,b"),
        ("a=b", "a=b"),
        ("a=\\\"b\\\",c", "a=\"b\",c"),
        ("} 7 #", "} 7 #"),
        ("C:\\\\dir\\\\", "C:\\dir\\"),
        ("two\\nlines", "two\nlines"),
        ("\\t stays", "\\t stays"),
        ("grüße 🦀", "grüße 🦀"),
        (" # EOF", " # EOF"),
    ] {
        let text = format!("requests_total{{path=\"{written}\",code=\"200\"}} 3\n");
        assert_eq!(line(&text), ("requests_total".into(), labels(&[("path", value), ("code", "200")]), 3.0, None), "{text}");
    }
}

#[test]
fn every_way_to_write_a_sample() {
    let empty = labels(&[]);
    assert_eq!(line("job:errors:rate5m 0.5"), ("job:errors:rate5m".into(), empty.clone(), 0.5, None));
    assert_eq!(line("up{} 1"), ("up".into(), empty.clone(), 1.0, None));
    assert_eq!(line("\t up \t 1 \t"), ("up".into(), empty.clone(), 1.0, None));
    assert_eq!(line("up 1 1700000000123\n"), ("up".into(), empty.clone(), 1.0, Some(1_700_000_000_123)));
    assert_eq!(line("up 1 -5"), ("up".into(), empty.clone(), 1.0, Some(-5)));
    assert_eq!(line("up{a=\"1\",} 1e+06"), ("up".into(), labels(&[("a", "1")]), 1e6, None));
    assert_eq!(line("up { a = \"1\" , b = \"\" } 1"), ("up".into(), labels(&[("a", "1")]), 1.0, None));
    assert_eq!(
        line("{\"my.metric\", \"my.label\"=\"x\", a=\"}\"} 2"),
        ("my.metric".into(), labels(&[("a", "}"), ("my.label", "x")]), 2.0, None)
    );
    assert_eq!(line("x_bucket{le=\"+Inf\"} 9").1, labels(&[("le", "+Inf")]));
    assert_eq!(line("# HELP up {\"\n# odd \"}{\nup 1\r\n\r\n"), ("up".into(), empty, 1.0, None));
}

#[test]
fn openmetrics_has_float_times_exemplars_and_an_end() {
    let text = "# TYPE requests counter\n# UNIT requests x\nrequests_total{code=\"500\"} 17 1700000000.25 # {trace_id=\"}{,=\"} 0.67 1.5\n\
                requests_created{code=\"500\"} 1.7e9\nlate_bucket{le=\"0.3\"} 4 # {} 0.1\n# EOF";
    let read = read_as(Format::OpenMetrics, text).unwrap();
    assert_eq!(read[0], ("requests_total".into(), labels(&[("code", "500")]), 17.0, Some(1_700_000_000_250)));
    assert_eq!(read[1].0, "requests_created");
    assert_eq!(read[2], ("late_bucket".into(), labels(&[("le", "0.3")]), 4.0, None));
    let without_end = text.trim_end_matches("# EOF");
    assert_eq!(read_as(Format::OpenMetrics, without_end).unwrap_err(), "line 5: `# EOF` is missing: the body was cut off");
    assert_eq!(read_as(Format::OpenMetrics, "# EOF\nup 1\n").unwrap_err(), "line 2: text after `# EOF` on line 1");
    assert_eq!(read_as(Format::OpenMetrics, "# EOF\r\n\n").unwrap(), [], "line ends may follow");
    assert!(read_as(Format::Text, "up 1 # {} 1").is_err(), "text 0.0.4 has no exemplars");
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    for (text, what) in [
        ("up 1\nup NaN", "line 2: `up` has the value NaN; a counter is finite and never below zero"),
        ("up +Inf", "line 1: `up` has the value inf; a counter is finite and never below zero"),
        ("\n\nup -1", "line 3: `up` has the value -1; a counter is finite and never below zero"),
        ("up{a=\"1\"} 1\nx 2\nup{a=\"1\",b=\"\"} 1", "line 3: a series of `up` appears twice; first on line 1"),
        ("up{a=\"1\",b=\"2\"} 1\nup{b=\"2\",a=\"1\"} 2", "line 2: a series of `up` appears twice; first on line 1"),
        ("up{a=\"1} 1", "line 1: malformed line of `up`: a quote is not closed"),
        ("up{a=\"1\" b=\"2\"} 1", "line 1: malformed line of `up`: expected `,` or `}` after a label"),
        ("up{a=\"1\",a=\"2\"} 1", "line 1: malformed line of `up`: a label appears twice"),
        ("up{a} 1", "line 1: malformed line of `up`: expected `=` after a label's name"),
        ("up{\"a\",\"b\"} 1", "line 1: malformed line of `up`: expected `=` after a label's name"),
        ("up{__name__=\"x\"} 1", "line 1: malformed line of `up`: `__name__` cannot be a label"),
        ("up", "line 1: malformed line of `up`: expected a blank or `{` after the name"),
        ("up ", "line 1: malformed line of `up`: expected a blank or `{` after the name"),
        ("up{} ", "line 1: malformed line of `up`: expected a number as the value"),
        ("up 1 2 3", "line 1: malformed line of `up`: more text than a value and a timestamp"),
        ("up 1 soon", "line 1: malformed line of `up`: expected a timestamp in whole milliseconds"),
        ("up 12abc", "line 1: `up` has the value `12abc`, which is not a number"),
        ("up 1 9223372036854775807", "line 1: `up` has a timestamp out of range"),
        ("up\"x\" 1", "line 1: malformed line of `up`: expected a blank or `{` after the name"),
        ("# TYPE up gauge\nup 1", "line 2: `up` is declared to be no counter: its value may fall"),
        ("{\"my.metric\"", "line 1: malformed line of `my.metric`: expected `,` or `}` after a label"),
    ] {
        assert_eq!(read_as(Format::Text, text).unwrap_err(), what, "{text}");
    }
    assert!(read_as(Format::Text, "up 1\u{a0}x").is_err(), "a blank that is none");
}

#[test]
fn what_nobody_watches_may_be_broken_but_is_counted() {
    let text = b"fine 1\nbroken{ 1\n{\"odd 1\n\xff\xfe 1\nwatched_total 5\nnan NaN\nneg -1\nfine 1\n";
    let body = Body { bytes: text, format: Format::Text, complete: true };
    let read = parse(body, |name| name == "watched_total").unwrap();
    assert_eq!((read.counters.len(), read.counters[0].value, read.malformed), (1, 5.0, 3));
    let broken = Body { bytes: b"fine 1\nwatched_total\xff 5\n", ..body };
    assert_eq!(
        parse(broken, |name| name == "watched_total").unwrap_err().to_string(),
        "line 2: malformed line of `watched_total`: not UTF-8"
    );
}

#[test]
fn a_page_that_is_no_exposition_is_not_an_empty_one() {
    let page = Body { bytes: b"<html>\n<body>sign in</body>\n", format: Format::Text, complete: true };
    let error = parse(page, |name| name == "up").unwrap_err().to_string();
    assert!(error.contains("is this a metrics endpoint?"), "{error}");
    assert_eq!(read_as(Format::Text, "").unwrap(), [], "an empty one is valid");
}

#[test]
fn a_body_of_unknown_length_must_end_its_last_line() {
    let body = |bytes, complete| Body { bytes, format: Format::Text, complete };
    let any = |_: &str| true;
    assert!(parse(body(b"up 12", true), any).is_ok());
    assert!(parse(body(b"up 12\n", false), any).is_ok());
    assert_eq!(parse(body(b"up 12", false), any).unwrap_err().line, 1, "1234 may have been meant");
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zA-Z_:][a-zA-Z0-9_:]{0,12}", "\\PC{1,8}"]
}

fn label_sets() -> impl Strategy<Value = BTreeMap<String, String>> {
    let label = prop_oneof!["[a-zA-Z_][a-zA-Z0-9_]{0,8}", "\\PC{1,6}"].prop_filter("reserved", |name| name != "__name__");
    let value = prop_oneof!["[ -~\n\t\\\\\"{},=#]{1,12}", "(?s).{1,6}"];
    prop::collection::btree_map(label, value, 0..5)
}

fn quoted(text: &str) -> String {
    let mut out = String::new();
    crate::world::series::push_quoted(&mut out, text);
    out
}

/// A sample line in one of the ways it can be written; names that need quotes get them.
fn written(metric: &str, labels: &BTreeMap<String, String>, value: f64, at: Option<i64>, format: Format, blanks: &str) -> String {
    let is_classic = crate::world::series::is_classic(&metric.replace(':', "_"));
    let mut inside: Vec<String> = if is_classic { Vec::new() } else { vec![quoted(metric)] };
    inside.extend(labels.iter().map(|(name, value)| {
        let name = if crate::world::series::is_classic(name) { name.clone() } else { quoted(name) };
        format!("{name}{blanks}={blanks}{}", quoted(value))
    }));
    let outside = if is_classic { metric } else { "" };
    let at = at.map_or(String::new(), |at| match format {
        Format::Text => format!(" {at}"),
        Format::OpenMetrics => format!(" {}.{:03}", at / 1000, at % 1000),
    });
    format!("{outside}{{{blanks}{}{blanks}}} {value:?}{at}", inside.join(&format!("{blanks},{blanks}")))
}

proptest! {
    #[test]
    fn whatever_is_written_comes_back(
        series in prop::collection::btree_map((name(), label_sets()), (0.0..1e18_f64, prop::option::of(0..4_000_000_000_000_i64)), 0..12),
        open in any::<bool>(),
        crlf in any::<bool>(),
        blanks in "[ \t]{0,2}",
    ) {
        let format = if open { Format::OpenMetrics } else { Format::Text };
        let end = if crlf { "\r\n" } else { "\n" };
        let mut text = String::new();
        for ((metric, labels), (value, at)) in &series {
            text.push_str(&written(metric, labels, *value, *at, format, &blanks));
            if open {
                text.push_str(" # {id=\"} 3\"} 1");
            }
            text.push_str(end);
        }
        if open {
            text.push_str("# EOF");
        }
        let expected: Vec<Read> = series.into_iter().map(|((metric, labels), (value, at))| (metric, labels, value, at)).collect();
        prop_assert_eq!(read_as(format, &text), Ok(expected), "{}", text);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), open in any::<bool>(), complete in any::<bool>()) {
        let format = if open { Format::OpenMetrics } else { Format::Text };
        let _ = parse(Body { bytes: &bytes, format, complete }, |_| true);
    }

    #[test]
    fn no_text_of_the_alphabet_panics(text in "[a-c_:{}\",=\\\\\n\r\t #0-9.+NaInfé-]{0,60}", open in any::<bool>()) {
        let format = if open { Format::OpenMetrics } else { Format::Text };
        let _ = parse(Body { bytes: text.as_bytes(), format, complete: true }, |name| name.len() < 3);
    }

    #[test]
    fn a_cut_never_changes_a_value(labels in label_sets(), value in 1000_u32.., cut in 0_usize..200) {
        let text = format!("{}\n", written("requests_total", &labels, f64::from(value), None, Format::Text, ""));
        let cut = cut.min(text.len());
        let body = Body { bytes: &text.as_bytes()[..cut], format: Format::Text, complete: false };
        if let Ok(read) = parse(body, |_| true) {
            prop_assert!(read.counters.iter().all(|counter| counter.value.to_bits() == f64::from(value).to_bits()));
        }
    }
}
