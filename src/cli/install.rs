//! `backstop install`.

use super::{Global, context};
use crate::error::{Error, Exit};
use crate::spec::install::Install;
use crate::spec::write;

/// Print what a Kubernetes cluster needs so that backstop runs in it
///
/// Namespace, custom resources, rights, the controller, and the admission policies (Kubernetes 1.36). Roles for people and agents
/// come with it, `backstop-oncall`, `backstop-sre` and `backstop-agent`; who has them is for you to say.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop install --image registry.example/backstop@sha256:9f86… | kubectl apply --server-side -f -
  backstop install --image registry.example/backstop@sha256:9f86… --namespaces shop,pay --log-volume 1Gi > base/backstop.yaml
  kubectl create rolebinding oncall --namespace shop --clusterrole backstop-oncall --group oncall")]
pub struct Args {
    /// The controller's image, by digest.
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// Guard these namespaces alone, with rights in them alone [default: all].
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    namespaces: Vec<String>,
    /// Controllers that share the work.
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    replicas: u16,
    /// Keep each replica's audit log on a volume of this size, such as `1Gi` [default: it ends with its pod].
    #[arg(long, value_name = "SIZE")]
    log_volume: Option<String>,
}

pub(super) fn run(args: Args, global: &Global) -> Result<Exit, Error> {
    let install = Install {
        namespace: global.system_namespace.clone(),
        namespaces: args.namespaces,
        image: args.image,
        replicas: args.replicas,
        log_volume: args.log_volume,
    };
    let objects = install.objects().map_err(Error::usage)?;
    if global.json {
        context::print_json(&serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects}))?;
    } else {
        context::print(&write::documents(&objects))?;
    }
    Ok(Exit::Done)
}
