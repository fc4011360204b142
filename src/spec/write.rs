//! JSON values written as YAML that every reader takes for the same.

use serde_json::Value as Json;

/// The documents, one below the other.
pub fn documents<'a>(values: impl IntoIterator<Item = &'a Json>) -> String {
    values.into_iter().map(document).collect::<Vec<_>>().join("---\n")
}

fn document(value: &Json) -> String {
    let mut text = String::new();
    nested(&mut text, value, 0);
    text
}

/// Writes a value whose lines begin at `indent`, with the end of its last line.
fn nested(text: &mut String, value: &Json, indent: usize) {
    match value {
        Json::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                text.push_str(&" ".repeat(indent));
                text.push_str(&scalar(key));
                text.push(':');
                beside(text, value, indent);
            }
        }
        Json::Array(list) if !list.is_empty() => {
            for item in list {
                let at = text.len();
                nested(text, item, indent + 2);
                text.replace_range(at + indent..=at + indent, "-");
            }
        }
        other => {
            text.push_str(&" ".repeat(indent));
            text.push_str(&inline(other, indent));
            text.push('\n');
        }
    }
}

/// Writes the value of a key: on the key's line, or below it.
fn beside(text: &mut String, value: &Json, indent: usize) {
    match value {
        Json::Object(map) if !map.is_empty() => {
            text.push('\n');
            nested(text, value, indent + 2);
        }
        Json::Array(list) if !list.is_empty() => {
            text.push('\n');
            nested(text, value, indent);
        }
        other => {
            text.push(' ');
            text.push_str(&inline(other, indent + 2));
            text.push('\n');
        }
    }
}

fn inline(value: &Json, indent: usize) -> String {
    match value {
        Json::String(text) if text.contains('\n') && is_block(text) => {
            let lines = text.trim_end_matches('\n').split('\n');
            let lines = lines.map(|line| if line.is_empty() { String::new() } else { format!("{}{line}", " ".repeat(indent)) });
            let chomp = if text.ends_with('\n') { "" } else { "-" };
            format!("|{chomp}\n{}", lines.collect::<Vec<_>>().join("\n"))
        }
        Json::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// Whether a text of several lines survives as a block: nothing in it that would be taken for indentation, or lost.
fn is_block(text: &str) -> bool {
    let kept = text.strip_suffix('\n').unwrap_or(text);
    !kept.ends_with('\n') && !text.starts_with([' ', '\n']) && text.chars().all(|c| c == '\n' || !c.is_control())
}

/// A text without quotes where nobody can take it for anything else, in double quotes elsewhere.
fn scalar(text: &str) -> String {
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || matches!(c, '/' | '$' | '_'));
    let safe = |c: char| {
        !c.is_control() && !matches!(c, '#' | '"' | '\'' | '`' | '{' | '}' | '[' | ']' | ',' | '&' | '*' | '!' | '|' | '>' | '%' | '@')
    };
    let colon = text.contains(": ") || text.ends_with(':');
    let word = text.to_ascii_lowercase();
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"].contains(&word.as_str());
    if first && !colon && !reserved && !text.ends_with(' ') && text.chars().all(safe) {
        return text.to_owned();
    }
    // Between double quotes YAML reads what JSON writes.
    Json::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let value = json!({
            "plain": "a text: no, a \"text\"", "number": 5, "yes": "no", "empty": {"map": {}, "list": [], "text": ""},
            "list": [{"a": 1, "b": [1, [2, 3], {"c": null}]}, "x", "- y", "5", "0x1f", "1e3", "~", ".5", "a#b", " lead", "trail "],
            "lines": "first\n  second\n\nthird", "ended": "first\nsecond\n", "odd": "\n x\n", "tail": "a\n\n", "percent": "5%", "$ref": "/a-b_c.d:e",
            "nested": [[["deep"]]], "unicode": "é…", "control": "a\u{7}b", "tabs": "a\n\tb"
        });
        let text = documents([&value, &json!({"second": true})]);
        let (first, second) = text.split_once("---\n").unwrap();
        assert_eq!(serde_saphyr::from_str::<Json>(first).unwrap(), value, "{first}");
        assert_eq!(second, "second: true\n");
    }
}
