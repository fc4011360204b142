//! `backstop deploy`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Context;
use super::command::{Said, words};
use super::service::{find, path};
use super::text::clean;
use crate::api::wire::{Deploy, Reply, Standing};
use crate::core::preview::View;
use crate::core::release::{Image, Release, Template};
use crate::error::{Error, Exit};

/// Largest template file, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// Put a release on trial
///
/// What is not said is taken from the running release: usually the image alone changes. Nothing gets traffic before
/// its attestation is verified. Who deploys is known by the credential; `--actor` and the like are claims that are
/// recorded, and can lower rights, never raise them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop deploy checkout --image registry.example/shop/checkout@sha256:9f86… --label v43
  backstop deploy checkout --image registry.example/shop/checkout@sha256:9f86… \\
      --actor agent:release-bot@1.4 --model example-model-2 \\
      --rationale 'bump the tax table' --trigger issue-4711
  backstop deploy checkout --image registry.example/shop/checkout@sha256:9f86… \\
      --command bin/checkout serve --label v1 -- --port-from-env
  backstop deploy checkout --env FEATURE_TAX=on
  backstop deploy checkout --template checkout.yaml")]
pub struct Args {
    /// The image, by digest: `repository@sha256:…`.
    #[arg(long, value_name = "IMAGE")]
    image: Option<Image>,
    /// Program inside the artifact and its arguments; those that begin with a dash go behind `--`.
    #[arg(long, value_name = "WORD", num_args = 1..)]
    command: Vec<String>,
    /// A variable of the environment; `NAME=` without a value sets it empty.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// A variable that the running release has and this one has not.
    #[arg(long, value_name = "NAME")]
    unset: Vec<String>,
    /// File with a whole template (image, command, env) instead.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "command", "env", "unset"])]
    template: Option<PathBuf>,
    /// Name for people, such as `v43`; decides nothing.
    #[arg(long, value_name = "NAME")]
    label: Option<String>,
    #[command(flatten)]
    said: Said,
    /// Further arguments of the program, whatever they look like.
    #[arg(last = true, value_name = "ARGUMENT", requires = "command", help_heading = "Program")]
    arguments: Vec<String>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    let template = match &args.template {
        Some(file) => Some(read(file)?),
        None => None,
    };
    if template.is_none() && args.image.is_none() && args.command.is_empty() && args.env.is_empty() && args.unset.is_empty() {
        return Err(Error::usage("nothing to deploy was named").hint("name at least `--image repository@sha256:…`"));
    }
    let key = find(context, args.said.service.as_deref()).await?;
    let template = match template {
        Some(template) => template,
        None => changed(&args, &context.client.get::<Standing>(&path(&key)).await?.view)?,
    };
    let deploy = Deploy { template, label: args.label, claims: args.said.who.claims() };
    deploy.check().map_err(Error::usage)?;
    let release = Release::new(deploy.template.clone(), deploy.label.clone());
    let reply: Reply = context.client.post(&format!("{}/deploy", path(&key)), &deploy).await?;
    context.show(&reply, || {
        let first = match reply.code.as_str() {
            "BS057" | "BS059" => format!("{key}: {}", words(&reply)),
            _ => format!("{key}: {} goes on trial", clean(&release.to_string())),
        };
        format!("{first}\nrelease {}, request {}; `backstop status {key} --watch` shows how it fares", release.id, reply.request)
    })?;
    Ok(Exit::Done)
}

fn read(file: &PathBuf) -> Result<Template, Error> {
    let failed = || Error::invalid(format!("the template in `{}` cannot be used", file.display()));
    let about = std::fs::metadata(file).map_err(|error| failed().because(&error))?;
    if about.len() > FILE_MAX {
        return Err(failed().cause("it is larger than 1 MiB"));
    }
    let text = std::fs::read_to_string(file).map_err(|error| failed().because(&error))?;
    serde_saphyr::from_str(&text).map_err(|error| failed().because(&error))
}

/// The running release's template with what was said.
fn changed(args: &Args, view: &View) -> Result<Template, Error> {
    let base = view.stable.as_ref().and_then(|release| release.template.as_process());
    let missing = |what: &str, how: &str| {
        Error::usage(format!("no release runs in {} yet from which the {what} could be taken", view.key)).hint(format!("add `{how}`"))
    };
    let image = args.image.clone().or_else(|| base.map(|base| base.image.clone())).ok_or_else(|| missing("image", "--image IMAGE"))?;
    let command = match (&args.command[..], base) {
        ([], Some(base)) => base.command.clone(),
        ([], None) => return Err(missing("command", "--command PROGRAM")),
        (given, _) => given.iter().chain(&args.arguments).cloned().collect(),
    };
    let mut env: BTreeMap<String, String> = base.map(|base| base.env.clone()).unwrap_or_default();
    for name in &args.unset {
        if env.remove(name).is_none() {
            return Err(Error::usage(format!("`--unset {name}`: the running release does not set it")));
        }
    }
    env.extend(args.env.iter().cloned());
    Ok(Template::process(image, command, env))
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;

    fn parsed(words: &str) -> Result<Args, clap::Error> {
        let digest = format!("sha256:{}", "9f".repeat(32));
        let words = words.replace("DIGEST", &digest);
        let matches = Args::augment_args(Command::new("deploy")).try_get_matches_from(std::iter::once("deploy").chain(words.split(' ')))?;
        Args::from_arg_matches(&matches)
    }

    #[test]
    fn the_first_command_of_the_readme_means_what_it_says() {
        let args = parsed("checkout --image registry.example/shop/checkout@DIGEST --command bin/checkout --label v1").unwrap();
        assert_eq!((args.command.clone(), args.label.as_deref()), (vec!["bin/checkout".to_owned()], Some("v1")));
        assert_eq!(args.said.service.as_deref(), Some("checkout"));
        let args = parsed("checkout --image a/b@DIGEST --command bin/checkout serve --label v1 -- --port 80").unwrap();
        assert_eq!((args.command, args.arguments), (vec!["bin/checkout".into(), "serve".into()], vec!["--port".into(), "80".into()]));
    }

    #[test]
    fn a_tag_is_refused_with_the_way_to_its_digest_and_beside_one_it_is_nothing() {
        let refused = parsed("checkout --image localhost:5000/shop/checkout:v1").unwrap_err().to_string();
        assert!(refused.contains("`localhost:5000/shop/checkout@$(crane digest localhost:5000/shop/checkout:v1)`"), "{refused}");
        let image = parsed("checkout --image localhost:5000/shop/checkout:v1@DIGEST").unwrap().image.unwrap();
        assert_eq!(image.repository, "localhost:5000/shop/checkout");
    }
}
