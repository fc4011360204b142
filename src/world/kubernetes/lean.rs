//! Objects without what nobody reads of them.

use std::borrow::Cow;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::{ApiResource, DynamicObject, TypeMeta};
use kube::core::DynamicResourceScope;
use serde::de::{DeserializeOwned, Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Objects that are asked for at once where all are listed: they are trees until they are taken in.
pub const PAGE: u32 = 100;

/// An object of any kind without its `managedFields`. These are a third of an object as text, and most of it as a tree: each field in
/// them is a map of its own.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Lean(pub DynamicObject);

/// An object of any kind without its `managedFields`, as JSON.
pub struct Tree(pub Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Fields::deserialize(deserializer).map(|Fields(fields)| Self(Value::Object(fields)))
    }
}

/// Of an object of any kind its metadata alone, without `managedFields`: of what was just written nobody reads more.
#[derive(Debug, Clone)]
pub struct Head(pub ObjectMeta);

macro_rules! of_any_kind {
    ($($name:ident { $($meta:tt)+ })+) => {
        $(impl Resource for $name {
            type DynamicType = ApiResource;
            type Scope = DynamicResourceScope;

            fn kind(resource: &ApiResource) -> Cow<'_, str> {
                DynamicObject::kind(resource)
            }

            fn group(resource: &ApiResource) -> Cow<'_, str> {
                DynamicObject::group(resource)
            }

            fn version(resource: &ApiResource) -> Cow<'_, str> {
                DynamicObject::version(resource)
            }

            fn plural(resource: &ApiResource) -> Cow<'_, str> {
                DynamicObject::plural(resource)
            }

            fn meta(&self) -> &ObjectMeta {
                &self.$($meta)+
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.$($meta)+
            }
        })+
    };
}

of_any_kind! { Lean { 0.metadata } Head { 0 } }

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Object {
            metadata: Fields,
        }
        let Object { metadata: Fields(fields) } = Object::deserialize(deserializer)?;
        read(Value::Object(fields)).map(Self)
    }
}

impl<'de> Deserialize<'de> for Lean {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Fields(mut data) = Fields::deserialize(deserializer)?;
        let types = match (data.remove("apiVersion"), data.remove("kind")) {
            (Some(api_version), Some(kind)) => Some(TypeMeta { api_version: read(api_version)?, kind: read(kind)? }),
            _ => None,
        };
        let metadata = data.remove("metadata").map_or_else(|| Ok(ObjectMeta::default()), read)?;
        Ok(Self(DynamicObject { types, metadata, data: Value::Object(data) }))
    }
}

fn read<T: DeserializeOwned, E: Error>(value: Value) -> Result<T, E> {
    serde_json::from_value(value).map_err(E::custom)
}

/// The fields of an object, those of its metadata without the managed ones.
struct Fields(Map<String, Value>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "managedFields" => drop(map.next_value::<IgnoredAny>()?),
                "metadata" => drop(fields.insert(name, Value::Object(map.next_value::<Fields>()?.0))),
                _ => drop(fields.insert(name, map.next_value()?)),
            }
        }
        Ok(Fields(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_but_the_managed_fields_is_as_a_whole_object_has_it() {
        let with = |managed: Value| {
            let mut object = json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": {"metadata": {"labels": {"app": "checkout"}}}},
                "metadata": {"name": "checkout", "namespace": "shop", "generation": 3, "labels": {"managedFields": "a label"}},
            });
            object["metadata"]["managedFields"] = managed;
            object
        };
        let whole = with(json!([{"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}]));
        let whole_again = whole.clone();
        let Lean(lean) = serde_json::from_value(whole.clone()).unwrap();
        let mut wanted: DynamicObject = serde_json::from_value(whole).unwrap();
        assert!(wanted.metadata.managed_fields.take().is_some());
        assert_eq!(lean, wanted);
        let Tree(tree) = serde_json::from_value(whole_again).unwrap();
        assert_eq!(tree, serde_json::to_value(&wanted).unwrap());
        let Head(metadata) = serde_json::from_value(serde_json::to_value(&wanted).unwrap()).unwrap();
        assert_eq!(metadata, wanted.metadata);
        // Items of a list have no types of their own.
        let Lean(item) = serde_json::from_str(r#"{"metadata": {"name": "a"}, "spec": {"replicas": 1}}"#).unwrap();
        assert_eq!((item.types, item.metadata.name.as_deref(), &item.data["spec"]["replicas"]), (None, Some("a"), &json!(1)));
        assert!(serde_json::from_str::<Lean>("[]").is_err() && serde_json::from_str::<Lean>(r#"{"metadata": {"name": 1}}"#).is_err());
    }
}
