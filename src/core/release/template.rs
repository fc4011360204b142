//! Templates: what a deployment changes, of a process or of a pod.

use std::collections::BTreeMap;
use std::fmt;

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

use super::{Image, ReferenceError, ReleaseId, hex};
use crate::core::json::{Entries, Json};

/// Prefix of the labels and annotations that are backstop's own: no part of what was deployed.
const OWN: &str = "backstop.dev/";
/// What `kubectl rollout restart` writes: the same release, started again.
const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";

/// What a deployment changes. A process is written as its fields, a pod under the one key `pod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Template {
    /// Of a `process` workload.
    Process(Process),
    /// Of a workload on Kubernetes.
    Pod(Pod),
}

/// Which artifact runs as a process, how, and with which environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// The artifact, by digest.
    pub image: Image,
    /// Program (a path inside the artifact) and arguments.
    pub command: Vec<String>,
    /// Environment of the program. Values are part of the release; secrets do not belong here.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// A pod template as Kubernetes has it, `metadata` and `spec`, without backstop's own labels and annotations and without
/// nulls; each image in it is named by digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    template: Json,
    images: Vec<Image>,
}

/// Why a value is not a pod template that can be deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodError {
    /// It has no containers.
    NoContainers,
    /// It uses an image that is not named by digest.
    Image {
        /// The field, such as `containers[web].image`.
        field: String,
        /// What is wrong with it.
        error: ReferenceError,
    },
}

impl fmt::Display for PodError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoContainers => f.write_str("a pod template without `spec.containers`"),
            Self::Image { field, error } => write!(f, "`spec.{field}`: {error}"),
        }
    }
}

impl std::error::Error for PodError {}

impl Template {
    /// A process.
    pub fn process(image: Image, command: Vec<String>, env: BTreeMap<String, String>) -> Self {
        Self::Process(Process { image, command, env })
    }

    /// The process, if it is one.
    pub fn as_process(&self) -> Option<&Process> {
        match self {
            Self::Process(process) => Some(process),
            Self::Pod(_) => None,
        }
    }

    /// The release that this template is.
    ///
    /// The hash is over every field as a length-prefixed string, so that no two templates share an encoding.
    pub fn release(&self) -> ReleaseId {
        let mut hash = Sha256::new();
        let mut field = |text: &str| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        };
        match self {
            Self::Process(process) => process.encode(&mut field),
            Self::Pod(pod) => pod.encode(&mut field),
        }
        ReleaseId(hex(&hash.finalize())[..16].into())
    }

    /// The image that stands for the template in what people read: the artifact, or the first container's.
    pub fn image(&self) -> &Image {
        match self {
            Self::Process(process) => &process.image,
            Self::Pod(pod) => &pod.images[0],
        }
    }

    /// Every image in the template that must be attested.
    pub fn images(&self) -> Vec<Image> {
        match self {
            Self::Process(process) => vec![process.image.clone()],
            Self::Pod(pod) => pod.images.clone(),
        }
    }
}

impl Process {
    fn encode(&self, field: &mut impl FnMut(&str)) {
        field("process");
        field(&self.image.to_string());
        field(&self.command.len().to_string());
        self.command.iter().for_each(|argument| field(argument));
        field(&self.env.len().to_string());
        for (name, value) in &self.env {
            field(name);
            field(value);
        }
    }
}

impl Pod {
    /// The template in `template`, `spec.template` of a Deployment or the like.
    ///
    /// # Errors
    /// It has no containers, or an image by tag.
    pub fn new(mut template: Json) -> Result<Self, PodError> {
        template.drop_nulls();
        keep_metadata(&mut template, |key| !key.starts_with(OWN));
        let images = images(&template)?;
        Ok(Self { template, images })
    }

    /// The template.
    pub fn template(&self) -> &Json {
        &self.template
    }

    /// A restart and another label are the same release: neither changes what runs.
    fn encode(&self, field: &mut impl FnMut(&str)) {
        let mut identity = self.template.clone();
        if let Some(metadata) = identity.get_mut("metadata").and_then(Json::map_mut) {
            metadata.remove("labels");
        }
        keep_metadata(&mut identity, |key| key != RESTARTED);
        field("pod");
        identity.encode(field);
    }
}

/// Takes out the labels and annotations that `keep` does not want, and what is empty then.
fn keep_metadata(template: &mut Json, keep: impl Fn(&str) -> bool) {
    let Some(metadata) = template.get_mut("metadata").and_then(Json::map_mut) else { return };
    for kind in ["labels", "annotations"] {
        if let Some(entries) = metadata.get_mut(kind).and_then(Json::map_mut) {
            entries.retain(|key, _| keep(key));
        }
    }
    metadata.retain(|_, value| *value != Json::Map(Entries::default()));
    if metadata.is_empty()
        && let Some(whole) = template.map_mut()
    {
        whole.remove("metadata");
    }
}

/// Every image of a template: of containers, then init containers, then volumes; none twice.
fn images(template: &Json) -> Result<Vec<Image>, PodError> {
    let list = |key: &str| template.get("spec").and_then(|spec| spec.get(key)).map(Json::list).unwrap_or_default();
    if list("containers").is_empty() {
        return Err(PodError::NoContainers);
    }
    let mut images: Vec<Image> = Vec::new();
    let mut add = |field: &str, item: &Json, image: Option<&Json>| {
        let name = item.get("name").and_then(Json::text).unwrap_or_default();
        let text = image.and_then(Json::text).unwrap_or_default();
        let image: Image = text.parse().map_err(|error| PodError::Image { field: format!("{field}[{name}].image"), error })?;
        if !images.contains(&image) {
            images.push(image);
        }
        Ok(())
    };
    for field in ["containers", "initContainers"] {
        list(field).iter().try_for_each(|container| add(field, container, container.get("image")))?;
    }
    let mut mounted = list("volumes").iter().filter_map(|volume| volume.get("image").map(|image| (volume, image)));
    mounted.try_for_each(|(volume, image)| add("volumes", volume, image.get("reference")))?;
    Ok(images)
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Process(process) => process.serialize(serializer),
            Self::Pod(pod) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("pod", &pod.template)?;
                map.end()
            }
        }
    }
}

/// The fields of either.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fields {
    image: Option<Image>,
    command: Option<Vec<String>>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    pod: Option<Json>,
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Fields { image, command, env, pod } = Fields::deserialize(deserializer)?;
        match (image, command, pod) {
            (None, None, Some(pod)) if env.is_empty() => Pod::new(pod).map(Self::Pod).map_err(de::Error::custom),
            (_, _, Some(_)) => Err(de::Error::custom("`pod` beside the fields of a process")),
            (Some(image), Some(command), None) => Ok(Self::process(image, command, env)),
            (None, _, None) => Err(de::Error::missing_field("image")),
            (_, None, None) => Err(de::Error::missing_field("command")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(letter: &str) -> String {
        format!("sha256:{}", letter.repeat(64))
    }

    fn map<const N: usize>(entries: [(&str, Json); N]) -> Json {
        Json::Map(Entries::ordered(entries.into_iter().map(|(key, value)| (key.into(), value)).collect()).unwrap())
    }

    fn text(text: &str) -> Json {
        Json::Text(text.into())
    }

    fn container(name: &str, image: &str) -> Json {
        map([("name", text(name)), ("image", text(image))])
    }

    fn web() -> Json {
        container("web", &format!("registry:5000/shop/web:v1@{}", digest("a")))
    }

    fn pod(annotations: Json, labels: Json) -> Json {
        let spec = map([("containers", Json::List([web()].into())), ("volumes", Json::Null)]);
        map([("metadata", map([("annotations", annotations), ("labels", labels), ("creationTimestamp", Json::Null)])), ("spec", spec)])
    }

    fn id(template: Json) -> ReleaseId {
        Template::Pod(Pod::new(template).unwrap()).release()
    }

    #[test]
    fn every_image_counts_and_none_by_tag() {
        let init = container("init", &format!("shop/init@{}", digest("b")));
        let model = map([("name", text("model")), ("image", map([("reference", text(&format!("shop/model@{}", digest("c"))))]))]);
        let lists = |containers: Vec<Json>| {
            map([
                ("containers", Json::List(containers.into())),
                ("initContainers", Json::List([init.clone()].into())),
                ("volumes", Json::List([model.clone()].into())),
            ])
        };
        let images = Pod::new(map([("spec", lists(vec![web(), web()]))])).unwrap().images;
        let expected = [("registry:5000/shop/web", "a"), ("shop/init", "b"), ("shop/model", "c")];
        assert_eq!(images, expected.map(|(name, letter)| format!("{name}@{}", digest(letter)).parse().unwrap()));
        let tagged = Pod::new(map([("spec", lists(vec![web(), container("sidecar", "shop/log:v1")]))])).unwrap_err();
        assert!(tagged.to_string().contains("`spec.containers[sidecar].image`"), "{tagged}");
        assert_eq!(Pod::new(map([("spec", lists(vec![]))])).unwrap_err(), PodError::NoContainers);
    }

    #[test]
    fn own_keys_labels_and_restarts_make_no_other_release() {
        let plain = id(map([("spec", map([("containers", Json::List([web()].into()))]))]));
        let own = map([("backstop.dev/requester", text("ann")), (RESTARTED, text("2026-11-24T09:00:00Z"))]);
        assert_eq!(id(pod(own, map([("app", text("web"))]))), plain);
        assert_ne!(id(pod(map([("sidecar.istio.io/inject", text("false"))]), map([]))), plain);
        let kept = Pod::new(pod(map([("backstop.dev/requester", text("ann"))]), map([("app", text("web"))]))).unwrap();
        assert_eq!(kept.template.get("metadata"), Some(&map([("labels", map([("app", text("web"))]))])));
    }

    #[test]
    fn no_two_values_share_an_encoding() {
        let env = |value: Json| {
            let container = map([("image", text(&format!("a@{}", digest("a")))), ("env", value)]);
            id(map([("spec", map([("containers", Json::List([container].into()))]))]))
        };
        let values = [
            text("1"),
            Json::Number(1),
            Json::Bool(true),
            text("true"),
            Json::List([].into()),
            map([]),
            Json::List([text("1")].into()),
            map([("1", text("1"))]),
        ];
        let ids: std::collections::BTreeSet<_> = values.into_iter().map(env).collect();
        assert_eq!(ids.len(), 8);
    }

    #[test]
    fn the_name_of_a_process_never_changes() {
        let image: Image = format!("shop/checkout@{}", digest("a")).parse().unwrap();
        let env = [("A".to_owned(), "1".to_owned())].into();
        assert_eq!(Template::process(image, vec!["bin/app".into(), "--fast".into()], env).release(), ReleaseId("95971d12f37be9b0".into()));
    }
}
