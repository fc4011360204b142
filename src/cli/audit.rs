//! `backstop audit`.

use super::direct;
use super::explain::line;
use super::{Context, context};
use crate::error::{Error, Exit};

/// Read, verify or export the audit log
///
/// Every input that changed state, every decision with the numbers that it rests on, every effect; one leaf of a
/// Merkle tree each, under signed checkpoints.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop audit show --service shop/checkout --last 20
  backstop audit show --json | jq 'select(.result == \"refused\")'
  backstop audit verify
  backstop audit export shop/checkout > checkout.jsonl && backstop replay checkout.jsonl")]
pub struct Args {
    #[command(subcommand)]
    verb: AuditVerb,
}

#[derive(Debug, clap::Subcommand)]
enum AuditVerb {
    /// Print records, oldest first; with `--json` one a line
    Show {
        /// Only of this rollout: `namespace/name`.
        #[arg(long, value_name = "SERVICE")]
        service: Option<String>,
        /// Only the last so many.
        #[arg(long, value_name = "COUNT")]
        last: Option<usize>,
    },
    /// Check every leaf, the tree and the signatures of its checkpoints; ends with 1 if something was changed
    Verify,
    /// Print every entry as a line of JSON, whole: what `backstop replay` reads
    Export {
        /// Only of this rollout: `namespace/name`.
        service: Option<String>,
    },
}

#[allow(clippy::unused_async)] // verbs are called alike
pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    match args.verb {
        AuditVerb::Show { service, last } => {
            let entries = direct::records(context, service.as_deref()).await?;
            let skip = last.map_or(0, |last| entries.len().saturating_sub(last));
            for entry in &entries[skip..] {
                if context.json {
                    let text = serde_json::to_string(&entry.record)
                        .map_err(|error| Error::internal("a record cannot be written as JSON").because(&error))?;
                    context::print(&text)?;
                } else {
                    context::print(&format!("{:>6}  {}", entry.index, line(&entry.record)))?;
                }
            }
            Ok(Exit::Done)
        }
        AuditVerb::Verify => {
            let report = direct::audit_verify(context)?;
            context.show(&report.value, || report.text.clone())?;
            Ok(report.exit)
        }
        AuditVerb::Export { service } => {
            let entries = direct::export(context, service.as_deref(), &mut |line| context::print(line))?;
            if entries == 0
                && let Some(service) = service
            {
                return Err(
                    Error::new(Exit::No, format!("the log has nothing of `{service}`")).hint("`backstop status` lists what it knows")
                );
            }
            Ok(Exit::Done)
        }
    }
}
