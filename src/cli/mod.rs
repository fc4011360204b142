//! The command line: one file per verb. Names and words are the field's; what is printed is meant to be read at 3 a.m.

mod adopt;
mod approve;
mod arm;
mod audit;
mod changes;
mod check;
pub mod client;
mod command;
mod completions;
mod context;
mod crd;
pub mod demo;
mod deploy;
mod direct;
mod disarm;
mod explain;
mod freeze;
mod host;
mod install;
mod lift;
mod live;
mod pause;
mod progress;
mod promote;
mod ready;
mod replay;
mod resume;
mod revert;
mod run;
mod sample_service;
mod service;
mod simulate;
pub mod status;
pub mod text;
mod thaw;
mod verify;

use std::io::Write as _;
use std::path::PathBuf;

use clap::builder::Styles;
use clap::{Parser, Subcommand};

use crate::error::{Error, Exit};

pub use changes::changes;
pub use context::Context;
pub use revert::{Ended, ended, plan_text};

const EXIT_CODES: &str = "\
Exit codes:
  0   done, healthy, or nothing to do
  1   the answer is no: breach, findings, not recovered or not verified in time
  2   the command line makes no sense
  3   a specification or the configuration is invalid
  4   something that is needed cannot be reached
  5   refused: attestation, policy, permission
  6   done in part
  7   something newer took its place
  10  dry run: changes are pending
  70  a mistake in backstop

At 3 a.m.: `backstop status`, then `backstop revert SERVICE`.";

/// The last line behind every automated deployment: judges rollouts and puts back the last attested, known-good release.
#[derive(Debug, Parser)]
#[command(name = "backstop", version, after_help = EXIT_CODES, styles = Styles::plain(), disable_help_subcommand = true, max_term_width = 110)]
pub struct Cli {
    /// What holds for every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// When output is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Options of every verb.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Print JSON on standard output, and nothing else there.
    #[arg(long, global = true)]
    pub json: bool,
    /// When to colour.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        hide_possible_values = true,
        help = "auto, always or never"
    )]
    pub color: Color,
    /// Where the controller keeps its state [default: `$XDG_STATE_HOME/backstop` or `~/.local/state/backstop`].
    #[arg(long, global = true, env = "BACKSTOP_DATA_DIR", value_name = "DIR", hide_env_values = true)]
    pub data_dir: Option<PathBuf>,
    /// Talk to a controller at this loopback URL instead of its socket; needs a token.
    #[arg(long, global = true, env = "BACKSTOP_SERVER", value_name = "URL", hide_env_values = true)]
    pub server: Option<String>,
    /// File with the token for `--server`.
    #[arg(long, global = true, env = "BACKSTOP_TOKEN_FILE", value_name = "FILE", hide_env_values = true)]
    pub token_file: Option<PathBuf>,
    /// Work on a Kubernetes cluster, with your own rights there, rather than on this machine.
    #[arg(long, global = true, env = "BACKSTOP_KUBERNETES", hide_env_values = true)]
    pub kubernetes: bool,
    /// Which cluster [default: as `kubectl` finds it, else the one whose pod this is]; implies `--kubernetes`.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Backstop's own namespace in the cluster.
    #[arg(long, global = true, env = "BACKSTOP_NAMESPACE", value_name = "NAME", default_value = "backstop-system", hide_env_values = true)]
    pub system_namespace: String,
}

/// The verbs.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, missing_docs)]
pub enum Verb {
    Demo(demo::Args),
    Run(run::Args),
    Host(host::Args),
    Deploy(deploy::Args),
    Status(status::Args),
    Revert(revert::Args),
    Pause(pause::Args),
    Resume(resume::Args),
    Promote(promote::Args),
    Approve(approve::Args),
    Lift(lift::Args),
    Freeze(freeze::Args),
    Thaw(thaw::Args),
    Disarm(disarm::Args),
    Arm(arm::Args),
    Adopt(adopt::Args),
    Ready(ready::Args),
    Changes(changes::Args),
    Verify(verify::Args),
    Explain(explain::Args),
    Check(check::Args),
    Crd(crd::Args),
    Install(install::Args),
    Audit(audit::Args),
    Replay(replay::Args),
    Simulate(simulate::Args),
    Completions(completions::Args),
    #[command(hide = true)]
    SampleService(sample_service::Args),
}

/// Does what was typed.
///
/// # Errors
/// What went wrong, with the code to end with.
pub fn run(cli: Cli) -> Result<Exit, Error> {
    let Cli { global, verb } = cli;
    match verb {
        // These need no controller, and no folder.
        Verb::Completions(args) => return completions::run(&args),
        Verb::Simulate(args) => return simulate::run(&args, &global),
        Verb::Replay(args) => return replay::run(&args, &global),
        Verb::Check(args) => return runtime(false)?.block_on(check::run(&args, &global)),
        Verb::Crd(crd::Args {}) => return crd::run(&global),
        Verb::Install(args) => return install::run(args, &global),
        Verb::Explain(args) if args.is_code() => return explain::code(&args, &global),
        _ => {}
    }
    if let Verb::SampleService(args) = verb {
        return runtime(true)?.block_on(sample_service::run(args));
    }
    let context = Context::new(&global)?;
    let threads = matches!(verb, Verb::Run(_) | Verb::Host(_) | Verb::Demo(_));
    runtime(threads)?.block_on(act(verb, &context))
}

fn runtime(threads: bool) -> Result<tokio::runtime::Runtime, Error> {
    let mut builder = if threads { tokio::runtime::Builder::new_multi_thread() } else { tokio::runtime::Builder::new_current_thread() };
    builder.enable_all().build().map_err(|error| Error::unreachable("no threads can be started").because(&error))
}

async fn act(verb: Verb, context: &Context) -> Result<Exit, Error> {
    match verb {
        Verb::Demo(args) => demo::run(args, context).await,
        Verb::Run(args) => run::run(args, context).await,
        Verb::Host(args) => host::run(args, context).await,
        Verb::Deploy(args) => deploy::run(args, context).await,
        Verb::Status(args) => status::run(args, context).await,
        Verb::Revert(args) => Box::pin(revert::run(args, context)).await,
        Verb::Pause(args) => pause::run(args, context).await,
        Verb::Resume(args) => resume::run(args, context).await,
        Verb::Promote(args) => promote::run(args, context).await,
        Verb::Approve(args) => approve::run(args, context).await,
        Verb::Lift(args) => lift::run(args, context).await,
        Verb::Freeze(args) => freeze::run(args, context).await,
        Verb::Thaw(args) => thaw::run(args, context).await,
        Verb::Disarm(args) => disarm::run(args, context).await,
        Verb::Arm(args) => arm::run(args, context).await,
        Verb::Adopt(args) => adopt::run(args, context).await,
        Verb::Ready(args) => ready::run(args, context).await,
        Verb::Changes(args) => changes::run(args, context).await,
        Verb::Verify(args) => verify::run(args, context).await,
        Verb::Explain(args) => explain::run(args, context).await,
        Verb::Audit(args) => audit::run(args, context).await,
        Verb::Check(_)
        | Verb::Crd(_)
        | Verb::Install(_)
        | Verb::Replay(_)
        | Verb::Completions(_)
        | Verb::Simulate(_)
        | Verb::SampleService(_) => Err(Error::internal("this verb was already done")),
    }
}

/// Says what is wrong with the command line, as [`complain`] does. Help and version, if that is what was asked for, are texts.
pub fn misread(error: &clap::Error, json: bool) -> Exit {
    // If nobody can be told, the exit code still tells.
    let _ = error.print();
    if !error.use_stderr() {
        return Exit::Done;
    }
    if json {
        let _ = writeln!(std::io::stdout(), "{}", usage(&error.render().to_string()).to_json());
    }
    Exit::Usage
}

/// What the parser says in paragraphs: the first is what is wrong, the others are what to do about it.
fn usage(text: &str) -> Error {
    let mut paragraphs = text.trim().split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let message = paragraphs.next().unwrap_or_default();
    let error = Error::usage(message.strip_prefix("error: ").unwrap_or(&message));
    paragraphs.fold(error, |error, paragraph| error.hint(paragraph.strip_prefix("tip: ").unwrap_or(&paragraph)))
}

/// Says what went wrong: on standard error for people, and on standard output for programs that asked for JSON.
pub fn complain(error: &Error, json: bool) {
    if error.quiet {
        return;
    }
    // If nobody can be told, the exit code still tells.
    let _ = writeln!(std::io::stderr(), "{error}");
    if json {
        let _ = writeln!(std::io::stdout(), "{}", error.to_json());
    }
}
