//! JSON schemas as Kubernetes wants them: without references and unions, every type said, limits on what can grow.

use serde_json::{Map, Value as Json, json};

/// Most items of a list, and most entries of a mapping, that say no limit of their own. The API server needs one to bound the
/// cost of the rules in them.
const MOST: u64 = 256;

/// What only a process has: it runs on one machine, never in a cluster.
const PROCESS_ONLY: &[(&str, &str)] = &[("Workload", "process"), ("ArmsBy", "route")];

/// What the types say in words, as rules: definition, rule, message.
const RULES: &[(&str, &str, &str)] = &[
    ("GuardedRollout", "has(self.source) && self.source != 'host'", "`source` must name the GuardSource that has the service's metrics"),
    (
        "GuardedRollout",
        "has(self.workload.deployment) || has(self.strategy.observe)",
        "a StatefulSet or DaemonSet is observed, never driven: write `strategy: {observe: {}}`",
    ),
    (
        "GuardedRollout",
        "!has(self.strategy.canary) || (has(self.strategy.canary.route) && !has(self.strategy.canary.route.service))",
        "a canary needs a `route` with weights: httpRoute, grpcRoute, virtualService or replicaRatio",
    ),
    (
        "GuardedRollout",
        "!has(self.strategy.blueGreen) || (has(self.strategy.blueGreen.route) && !has(self.strategy.blueGreen.route.replicaRatio))",
        "blueGreen needs a `route` that can switch: service, httpRoute, grpcRoute or virtualService",
    ),
    ("Objective", "has(self.ratio) != has(self.histogram)", "exactly one of `ratio` and `histogram`"),
    ("Rule", "[has(self.all), has(self.any), has(self.alert)].filter(given, given).size() == 1", "exactly one of `all`, `any` and `alert`"),
    (
        "Condition",
        "has(self.quantile) == has(self.value) && has(self.bad) != has(self.quantile)",
        "exactly one of `bad`, or `quantile` with `value`",
    ),
    ("GuardSource", "has(self.prometheus) != has(self.scrape)", "exactly one of `prometheus` and `scrape`"),
    ("Scrape", "has(self.urls) != has(self.pods)", "exactly one of `urls` and `pods`"),
    ("Key", "has(self.data) != has(self.file)", "exactly one of `data` and `file`"),
];

/// The schema `derived` from a type, which may refer to its own `$defs`, in structural form.
pub(super) fn structural(derived: &Json) -> Json {
    let name = derived.get("title").and_then(Json::as_str).unwrap_or_default();
    Structural { defs: derived.get("$defs").unwrap_or(&Json::Null) }.schema(derived, name)
}

struct Structural<'a> {
    defs: &'a Json,
}

impl Structural<'_> {
    fn schema(&self, schema: &Json, name: &str) -> Json {
        if let Some(name) = schema.get("$ref").and_then(Json::as_str).and_then(|path| path.strip_prefix("#/$defs/")) {
            return described(self.schema(&self.defs[name], name), schema);
        }
        // An optional field: to leave it out says the same as null, and is the only way here.
        if let Some(options) = schema.get("anyOf").and_then(Json::as_array) {
            return described(self.schema(&options[0], name), schema);
        }
        let mut made = match schema.get("oneOf").and_then(Json::as_array) {
            Some(variants) => self.variants(variants, name),
            None if schema.get("enum").is_some() => json!({"type": "string", "enum": schema["enum"]}),
            None => self.plain(schema),
        };
        let rules = RULES.iter().filter(|(of, ..)| *of == name).map(|(_, rule, message)| json!({"rule": rule, "message": message}));
        let rules: Vec<_> = rules.collect();
        if let Some(known) = made.get_mut("x-kubernetes-validations").and_then(Json::as_array_mut) {
            known.extend(rules);
        } else if !rules.is_empty() {
            made["x-kubernetes-validations"] = Json::from(rules);
        }
        described(made, schema)
    }

    fn plain(&self, schema: &Json) -> Json {
        let kind = match schema.get("type") {
            Some(Json::Array(kinds)) => kinds[0].as_str(),
            Some(kind) => kind.as_str(),
            None => None,
        };
        let mut made = Map::new();
        made.insert("type".to_owned(), Json::from(kind.unwrap_or("object")));
        let copied =
            ["pattern", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems", "required", "x-kubernetes-list-type"];
        for key in copied.into_iter().chain(["x-kubernetes-list-map-keys", "x-kubernetes-validations"]) {
            made.extend(schema.get(key).map(|value| (key.to_owned(), value.clone())));
        }
        match kind {
            Some("object") | None => {
                if let Some(properties) = schema.get("properties").and_then(Json::as_object) {
                    let properties = properties.iter().map(|(key, value)| (key.clone(), self.schema(value, "")));
                    made.insert("properties".to_owned(), Json::Object(properties.collect()));
                } else if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
                    made.insert("additionalProperties".to_owned(), self.schema(values, ""));
                    made.insert("maxProperties".to_owned(), Json::from(MOST));
                }
            }
            Some("array") => {
                made.insert("items".to_owned(), self.schema(&schema["items"], ""));
                made.entry("maxItems").or_insert(Json::from(MOST));
            }
            Some("integer") => {
                made.insert("format".to_owned(), Json::from("int64"));
            }
            Some("string") => made.extend(schema.get("format").map(|format| ("format".to_owned(), format.clone()))),
            _ => {}
        }
        Json::Object(made)
    }

    /// An externally tagged enum: words that stand alone, and keys with a value.
    fn variants(&self, variants: &[Json], name: &str) -> Json {
        let mut words = Vec::new();
        let mut told = Vec::new();
        let mut keys = Map::new();
        let here = |variant: &str| !PROCESS_ONLY.contains(&(name, variant));
        for variant in variants {
            let single = variant.get("const").into_iter().chain(variant.get("enum").and_then(Json::as_array).into_iter().flatten());
            for word in single.filter(|word| word.as_str().is_none_or(here)) {
                words.push(word.clone());
                told.extend(
                    variant.get("description").and_then(Json::as_str).zip(word.as_str()).map(|(text, word)| format!("`{word}`: {text}")),
                );
            }
            for (key, value) in variant.get("properties").and_then(Json::as_object).into_iter().flatten().filter(|(key, _)| here(key)) {
                keys.insert(key.clone(), described(self.schema(value, ""), variant));
            }
        }
        let mut made = match (words.is_empty(), keys.is_empty()) {
            (false, true) => json!({"type": "string", "enum": words}),
            (true, _) => {
                let names: Vec<_> = keys.keys().map(|key| format!("has(self.{key})")).collect();
                let rule = format!("[{}].filter(given, given).size() == 1", names.join(", "));
                let message = format!("exactly one of {}", keys.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", "));
                json!({"type": "object", "x-kubernetes-validations": [{"rule": rule, "message": message}]})
            }
            // A word, or one key. A structural schema cannot give two types: what is no word must have the key, and a text or
            // a number, which would slip through since they have no keys, is refused by its size.
            (false, false) => {
                let required: Vec<_> =
                    keys.keys().map(|key| json!({"required": [key], "maxLength": 0, "minimum": 1, "maximum": 0})).collect();
                let options: Vec<_> = [json!({"enum": words})].into_iter().chain(required).collect();
                json!({"x-kubernetes-preserve-unknown-fields": true, "minLength": 1, "maxProperties": 1, "anyOf": options})
            }
        };
        if !keys.is_empty() {
            made["properties"] = Json::Object(keys);
        }
        if !told.is_empty() {
            made["description"] = Json::from(told.join(" "));
        }
        made
    }
}

/// The schema with what is said about it where it is used: instead of what its type says, and before what its words mean.
fn described(mut made: Json, by: &Json) -> Json {
    let Some(text) = by.get("description").and_then(Json::as_str) else { return made };
    let default = by.get("default").filter(|value| !value.is_null() && !value.is_object() && !value.is_array());
    let default = default.map(|value| format!(" Default: `{}`.", value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
    let words = made.get("enum").and_then(|words| words.get(0)).and_then(Json::as_str).and_then(|first| {
        let known = made.get("description")?.as_str()?;
        known.find(&format!("`{first}`: ")).map(|at| format!(" {}", &known[at..]))
    });
    // One paragraph of the source is one line for the reader.
    let text = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
    made["description"] = Json::from(format!("{text}{}{}", words.unwrap_or_default(), default.unwrap_or_default()));
    made
}
