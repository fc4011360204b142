//! `backstop completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Cli;
use crate::error::{Error, Exit};

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  backstop completions bash > ~/.local/share/bash-completion/completions/backstop
  backstop completions zsh > ~/.zfunc/_backstop
  backstop completions fish > ~/.config/fish/completions/backstop.fish")]
pub struct Args {
    /// Which shell.
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "backstop", &mut text);
    super::context::print(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Done)
}
