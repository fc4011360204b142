//! JSON as a value, for what comes from elsewhere and is kept whole: pod templates.
//!
//! Keys are ordered, so that equal values have one form. Whole numbers are the only ones: no field of a pod template is a
//! fraction, and fractions do not survive every writer unchanged. Objects are lists without room to spare: there are several
//! templates for each of thousands of workloads, and the nodes of a tree would be most of them.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

/// A JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Number(i64),
    /// A string.
    Text(Box<str>),
    /// An array.
    List(Box<[Self]>),
    /// An object.
    Map(Entries),
}

/// The entries of an object, in the order of their keys, none twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entries(Vec<(Box<str>, Json)>);

impl Entries {
    fn place(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(key))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Json> {
        Some(&self.0[self.place(key).ok()?].1)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Json> {
        let place = self.place(key).ok()?;
        Some(&mut self.0[place].1)
    }

    /// Takes a key out, if it is there.
    pub fn remove(&mut self, key: &str) {
        self.retain(|known, _| known != key);
    }

    /// Takes out every entry that `keep` does not want.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &Json) -> bool) {
        self.0.retain(|(key, value)| keep(key, value));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Json)> {
        self.0.iter().map(|(key, value)| (&**key, value))
    }

    /// These entries in order; `None` if a key stands twice.
    pub fn ordered(mut entries: Vec<(Box<str>, Json)>) -> Option<Self> {
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries.shrink_to_fit();
        entries.is_sorted_by(|(a, _), (b, _)| a < b).then_some(Self(entries))
    }
}

impl Json {
    /// The value of a key; `None` also where this is no object.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(map) => map.get(key),
            _ => None,
        }
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        match self {
            Self::Map(map) => map.get_mut(key),
            _ => None,
        }
    }

    /// The entries; none where this is no object.
    pub fn map_mut(&mut self) -> Option<&mut Entries> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The items; none where this is no array.
    pub fn list(&self) -> &[Self] {
        match self {
            Self::List(list) => list,
            _ => &[],
        }
    }

    /// Takes out every key whose value is `null`: it says the same as no key.
    pub fn drop_nulls(&mut self) {
        match self {
            Self::Map(map) => {
                map.retain(|_, value| *value != Self::Null);
                map.0.iter_mut().for_each(|(_, value)| value.drop_nulls());
            }
            Self::List(list) => list.iter_mut().for_each(Self::drop_nulls),
            _ => {}
        }
    }

    /// Hands the value out as a sequence of texts that no other value has, if each is told apart from the next.
    pub(crate) fn encode(&self, field: &mut impl FnMut(&str)) {
        match self {
            Self::Null => field("null"),
            Self::Bool(value) => field(if *value { "true" } else { "false" }),
            Self::Number(number) => {
                field("number");
                field(&number.to_string());
            }
            Self::Text(text) => {
                field("text");
                field(text);
            }
            Self::List(list) => {
                field("list");
                field(&list.len().to_string());
                for item in list {
                    item.encode(field);
                }
            }
            Self::Map(map) => {
                field("map");
                field(&map.iter().len().to_string());
                for (key, value) in map.iter() {
                    field(key);
                    value.encode(field);
                }
            }
        }
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(number) => serializer.serialize_i64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => serializer.collect_seq(list.iter()),
            Self::Map(map) => serializer.collect_map(map.iter()),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value without fractions")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        Json::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Number(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Json, E> {
        i64::try_from(number).map(Json::Number).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.into()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Json, E> {
        Ok(Json::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut read = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            read.push(entry);
        }
        Entries::ordered(read).map(Json::Map).ok_or_else(|| de::Error::custom("a key stands twice in an object"))
    }
}
