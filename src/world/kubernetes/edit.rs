//! What must differ in an object, as a JSON patch in which each step tests what it replaces.

use serde_json::{Value, json};

/// The patch that grows while an object is compared with what is wanted.
pub(super) struct Edit {
    object: Value,
    steps: Vec<Value>,
    pointers: Vec<String>,
    matters: bool,
}

impl Edit {
    /// Nothing differs yet.
    pub(super) fn of(object: &Value) -> Self {
        Self { object: object.clone(), steps: Vec::new(), pointers: Vec::new(), matters: false }
    }

    /// Whether nothing differs.
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether more differs than notes of who wrote.
    pub(super) fn changes(&self) -> bool {
        self.matters
    }

    /// Where something differs, for people.
    pub(super) fn pointers(&self) -> String {
        self.pointers.join(", ")
    }

    /// Wants `value` at `pointer`; `null` wants nothing there. What contains it must be there.
    pub(super) fn set(&mut self, pointer: &str, value: Value) {
        if self.step(pointer, value) {
            self.matters = true;
        }
    }

    /// Wants an annotation, or none.
    pub(super) fn annotate(&mut self, key: &str, value: Option<String>) {
        if self.step_annotation(key, value) {
            self.matters = true;
        }
    }

    /// The same, for a note that alone is no change.
    pub(super) fn note(&mut self, key: &str, value: Option<String>) {
        self.step_annotation(key, value);
    }

    fn step_annotation(&mut self, key: &str, value: Option<String>) -> bool {
        if self.object["metadata"]["annotations"].is_null() {
            if value.is_none() {
                return false;
            }
            self.step("/metadata/annotations", json!({}));
        }
        let pointer = format!("/metadata/annotations/{}", key.replace('~', "~0").replace('/', "~1"));
        self.step(&pointer, value.map_or(Value::Null, Value::String))
    }

    fn step(&mut self, pointer: &str, value: Value) -> bool {
        let now = self.object.pointer(pointer).cloned().unwrap_or(Value::Null);
        if now == value {
            return false;
        }
        self.steps.push(json!({"op": "test", "path": pointer, "value": now}));
        self.steps.push(match (&now, &value) {
            (_, Value::Null) => json!({"op": "remove", "path": pointer}),
            (Value::Null, _) => json!({"op": "add", "path": pointer, "value": value}),
            _ => json!({"op": "replace", "path": pointer, "value": value}),
        });
        self.pointers.push(pointer.to_owned());
        self.put(pointer, value);
        true
    }

    /// Keeps the picture true, so that later steps are compared with what is there by then.
    fn put(&mut self, pointer: &str, value: Value) {
        let Some((parent, key)) = pointer.rsplit_once('/') else { return };
        let key = key.replace("~1", "/").replace("~0", "~");
        match self.object.pointer_mut(parent) {
            Some(Value::Object(map)) if value.is_null() => drop(map.remove(&key)),
            Some(Value::Object(map)) => drop(map.insert(key, value)),
            Some(Value::Array(list)) => {
                if let Some(item) = key.parse().ok().and_then(|index: usize| list.get_mut(index)) {
                    *item = value;
                }
            }
            _ => {}
        }
    }

    /// The patch.
    pub(super) fn into_patch(self) -> Value {
        Value::Array(self.steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_tests_what_it_replaces_and_what_is_so_already_is_no_step() {
        let object = json!({"metadata": {}, "spec": {"paused": true, "replicas": 3}});
        let mut edit = Edit::of(&object);
        edit.set("/spec/replicas", json!(3));
        assert!(edit.is_empty());
        edit.set("/spec/paused", Value::Null);
        edit.note("backstop.dev/generation", Some("7".into()));
        edit.note("backstop.dev/stable", Some("a".into()));
        assert!(edit.changes());
        let expected = json!([
            {"op": "test", "path": "/spec/paused", "value": true}, {"op": "remove", "path": "/spec/paused"},
            {"op": "test", "path": "/metadata/annotations", "value": null}, {"op": "add", "path": "/metadata/annotations", "value": {}},
            {"op": "test", "path": "/metadata/annotations/backstop.dev~1generation", "value": null},
            {"op": "add", "path": "/metadata/annotations/backstop.dev~1generation", "value": "7"},
            {"op": "test", "path": "/metadata/annotations/backstop.dev~1stable", "value": null},
            {"op": "add", "path": "/metadata/annotations/backstop.dev~1stable", "value": "a"},
        ]);
        assert_eq!(edit.into_patch(), expected);
    }

    #[test]
    fn a_note_alone_changes_nothing() {
        let mut edit = Edit::of(&json!({"metadata": {"annotations": {"a": "b"}}}));
        edit.note("a", Some("c".into()));
        assert!(!edit.is_empty() && !edit.changes());
        edit.annotate("gone", None);
        assert!(!edit.changes());
    }
}
