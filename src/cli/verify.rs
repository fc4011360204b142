//! `backstop verify`.

use std::path::PathBuf;

use super::{Context, direct};
use crate::core::release::Image;
use crate::error::{Error, Exit};

/// Verify signature, provenance and SBOM of an image as an admission would
///
/// Ends with 0 if the policy is met, with 5 if not, and with 4 if the evidence cannot be had.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop verify registry.example/shop/checkout@sha256:9f86… --policy rollouts/policy.yaml
  backstop verify checkout@sha256:9f86… --policy policy.yaml --layout ./artifacts")]
pub struct Args {
    /// The image, by digest: `repository@sha256:…`.
    image: Image,
    /// File with a `GuardPolicy` that has an `attestation` block.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Read the image from this OCI image layout instead of a registry.
    #[arg(long, value_name = "DIR")]
    layout: Option<PathBuf>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    let report = direct::verify(&args.image, &args.policy, args.layout.as_deref()).await?;
    context.show(&report.value, || report.text.clone())?;
    Ok(report.exit)
}
