//! What a life is told: by people and agents, and by what surrounds it.

use std::sync::Arc;

use super::super::words::name;
use super::Life;
use crate::core::actor::Request;
use crate::core::input::{Commanded, Deployed, Input, Verb};
use crate::core::machine::Answer;
use crate::core::policy::Policy;
use crate::core::release::Release;
use crate::core::state::Guard;

impl Life {
    /// Somebody deploys; the answer, if a controller gave one at once.
    pub fn deploy(&mut self, release: &Release, request: Request) -> Option<Answer> {
        self.tell(Input::Deployed(Deployed { release: release.clone(), request }))
    }

    /// Somebody commands.
    pub fn command(&mut self, verb: Verb, request: Request) -> Option<Answer> {
        self.tell(Input::Commanded(Commanded { verb, request }))
    }

    /// Somebody deploys, and waits for the answer.
    pub fn deployed(&mut self, release: &Release, request: Request) -> Option<Answer> {
        self.ask(Input::Deployed(Deployed { release: release.clone(), request }))
    }

    /// Somebody commands, and waits for the answer.
    pub fn commanded(&mut self, verb: Verb, request: Request) -> Option<Answer> {
        self.ask(Input::Commanded(Commanded { verb, request }))
    }

    fn ask(&mut self, input: Input) -> Option<Answer> {
        self.tell(input);
        let asked = self.asked;
        self.until(30, |life| life.answers.contains_key(&asked));
        self.answers.get(&asked).cloned()
    }

    /// A fact reaches a living controller; the answer to it, if it is one that is answered.
    pub fn tell(&mut self, input: Input) -> Option<Answer> {
        let asked = self.tell_and_number(input);
        self.answers.get(&asked).cloned()
    }

    /// The same; returns the number that the answer, now or later, will have.
    pub(in crate::sim) fn tell_and_number(&mut self, input: Input) -> u32 {
        let alive: Vec<usize> = (0..self.replicas.len()).filter(|replica| self.replicas[*replica].order.is_some()).collect();
        if alive.is_empty() {
            return u32::MAX;
        }
        let replica = if alive.len() == 1 { alive[0] } else { self.random.pick(&alive) };
        self.asked += 1;
        let asked = self.asked;
        self.note(|| format!("r{replica} << {}", name(&input)));
        self.oracle.asked(asked, &input);
        if let Some(order) = &mut self.replicas[replica].order {
            order.push(input, Some(asked));
        }
        let queued = self.replicas[replica].order.as_ref().is_some_and(|order| order.machine().state().queued.is_some());
        self.drain(replica);
        if let Some(order) = &self.replicas[replica].order {
            let found = if queued { Ok(()) } else { self.oracle.heard(asked, order.machine()) };
            self.hold(found);
        }
        asked
    }

    /// A fact reaches every living controller, as documents and freezes do.
    pub fn broadcast(&mut self, input: &Input) {
        self.note(|| format!("all << {}", name(input)));
        for replica in 0..self.replicas.len() {
            if let Some(order) = &mut self.replicas[replica].order {
                order.push(input.clone(), None);
                self.drain(replica);
            }
        }
    }

    /// The policy changes.
    pub fn set_policy(&mut self, policy: impl Into<Arc<Policy>>) {
        let policy = policy.into();
        let denied = &policy.attestation.deny.digests;
        self.oracle.denies(denied, self.world.now);
        self.world.policy = Arc::clone(&policy);
        self.broadcast(&Input::PolicyChanged(policy));
    }

    /// The document changes.
    pub fn set_guard(&mut self, guard: Guard) {
        self.world.guard = guard.clone();
        self.broadcast(&Input::SpecChanged(Box::new(guard)));
    }
}
