//! What people and agents may do, and when it wins.

use super::*;

#[test]
fn disarmed_means_nobody_but_people_reverts() {
    let mut life = house_of_two();
    accepted(life.deployed(&v(3), person("ann")));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
    accepted(life.commanded(Verb::Disarm { span: Span::minutes(2) }, person("bob")));
    spoil(&mut life, &v(3), 0.5);
    life.run(60);
    assert_eq!(life.phase(), PhaseKind::Advancing);
    assert!(pages(&life).contains(&"BS077"));
    // It runs out by itself, with a page, and the breach is not forgotten.
    reach(&mut life, PhaseKind::Reverted, 120);
    is_back(&life, &v(3), &v(2));
    assert!(pages(&life).contains(&"BS080"));
}

#[test]
fn a_deadline_while_disarmed_pages_once() {
    let mut life = house_of_two();
    life.world.truth.rate = 0;
    accepted(life.deployed(&v(3), agent("bot")));
    accepted(life.commanded(Verb::Disarm { span: Span::minutes(30) }, person("bob")));
    life.run(600);
    fine(&life);
    assert_eq!(pages(&life).iter().filter(|code| **code == "BS077").count(), 1, "{:?}", pages(&life));
}

#[test]
fn pause_and_freeze_stop_forward_steps_only() {
    for (stop, go) in [(Verb::Pause, Verb::Resume), (Verb::Freeze, Verb::Thaw)] {
        let mut life = house_of_two();
        accepted(life.deployed(&v(3), person("ann")));
        assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
        accepted(life.commanded(stop.clone(), agent("bot")));
        life.run(60);
        assert_eq!(weight(&life, &v(3)), 0.2);
        assert!(matches!(refused(life.commanded(go.clone(), agent("bot"))), Reason::NotAllowed { .. }));
        accepted(life.commanded(go, person("ann")));
        reach(&mut life, PhaseKind::Idle, 120);
        accepted(life.deployed(&v(4), person("ann")));
        assert!(life.until(60, |life| weight(life, &v(4)) == 0.2));
        life.commanded(stop, agent("bot"));
        spoil(&mut life, &v(4), 0.5);
        reach(&mut life, PhaseKind::Reverted, 60);
    }
}

#[test]
fn nobody_approves_their_own() {
    let policy = Policy { approvals: 2, approve_within: Span::minutes(5), ..house::policy() };
    let mut life = life_with(guard(house::canary()), policy);
    accepted(life.deployed(&v(1), person("ann")));
    reach(&mut life, PhaseKind::AwaitingApproval, 30);
    assert!(matches!(refused(life.commanded(Verb::Approve, person("ann"))), Reason::NotAllowed { .. }));
    assert!(matches!(refused(life.commanded(Verb::Approve, agent("bot"))), Reason::NotAllowed { .. }));
    accepted(life.commanded(Verb::Approve, person("bob")));
    accepted(life.commanded(Verb::Approve, person("bob")));
    assert_eq!(life.phase(), PhaseKind::AwaitingApproval);
    // A looser policy does not bind what is under way.
    life.tell(Input::PolicyChanged(std::sync::Arc::new(house::policy())));
    life.run(2);
    assert_eq!(life.phase(), PhaseKind::AwaitingApproval);
    accepted(life.commanded(Verb::Approve, person("eve")));
    reach(&mut life, PhaseKind::Advancing, 5);
    let mut life = life_with(guard(house::canary()), Policy { approvals: 1, approve_within: Span::minutes(5), ..house::policy() });
    accepted(life.deployed(&v(1), person("ann")));
    reach(&mut life, PhaseKind::Refused, 400);
    assert!(matches!(decided(&life, Decision::Refuse)[0], Some(Reason::ApprovalExpired {})));
}

fn alert(life: &Life, trust: Trust, firing: bool) -> Input {
    let at = EPOCH_MS + i64::try_from(life.world.now).unwrap();
    let starts_at = jiff::Timestamp::from_millisecond(at).unwrap();
    Input::Alerted(Alerted { name: "Burning".into(), fingerprint: "f".into(), starts_at, firing, trust })
}

#[test]
fn alerts_wait_or_revert_as_they_are_trusted() {
    let mut life = house_of_two();
    accepted(life.deployed(&v(3), person("ann")));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
    let waits = alert(&life, Trust::Wait, true);
    life.tell(waits);
    life.run(300);
    assert_eq!(weight(&life, &v(3)), 0.2);
    // At most a quarter of an hour.
    assert!(life.until(700, |life| weight(life, &v(3)) == 0.5));
    let reverts = alert(&life, Trust::Revert, true);
    life.tell(reverts);
    reach(&mut life, PhaseKind::Reverted, 60);
    is_back(&life, &v(3), &v(2));
}

#[test]
fn an_alert_that_has_ended_does_not_begin_again() {
    let mut life = house_of_two();
    accepted(life.deployed(&v(3), person("ann")));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
    life.run(1);
    let mut firing = alert(&life, Trust::Revert, true);
    let ended = alert(&life, Trust::Revert, false);
    life.tell(ended);
    life.run(2);
    // Delivered late, and out of order.
    if let Input::Alerted(alerted) = &mut firing {
        alerted.firing = true;
    }
    life.tell(firing);
    life.run(2);
    assert!(decided(&life, Decision::Revert).is_empty());
}

#[test]
fn alerts_under_ever_new_names_are_bounded() {
    let mut life = house_of_two();
    let named = |life: &Life, number: u32, firing| {
        let Input::Alerted(alerted) = alert(life, Trust::Wait, firing) else { unreachable!() };
        Input::Alerted(Alerted { fingerprint: format!("f{number}"), ..alerted })
    };
    let begin = named(&life, 0, true);
    life.tell(begin);
    for number in 1..=300 {
        let one = named(&life, number, number % 2 == 0);
        life.tell(one);
    }
    life.run(1);
    fine(&life);
    let state = life.state();
    assert_eq!(state.alerts.len(), 64);
    // Those that have ended went first; then the oldest of those that fire.
    assert!(state.alerts.values().all(|(alert, _)| alert.firing));
    assert!(state.alerts.contains_key("f300") && !state.alerts.contains_key("f0"));
    assert_eq!(state.alerts_dropped, 151 - 64, "and the state says so");
    // What has ended is remembered for an hour, and no longer.
    for number in 1..=300 {
        let one = named(&life, number, false);
        life.tell(one);
    }
    life.run(3700);
    let last = named(&life, 301, true);
    life.tell(last);
    life.run(1);
    assert_eq!(life.state().alerts.len(), 1);
}

#[test]
fn a_newer_deployment_supersedes_waits_or_is_refused() {
    let with = |on_newer| {
        let mut strategy = house::canary();
        if let Strategy::Canary(canary) = &mut strategy {
            canary.on_newer = on_newer;
        }
        let mut life = life_with(guard(strategy), house::policy());
        settle(&mut life, &v(1));
        accepted(life.deployed(&v(2), agent("bot")));
        assert!(life.until(60, |life| weight(life, &v(2)) == 0.2));
        life
    };
    let mut life = with(OnNewer::Supersede);
    accepted(life.deployed(&v(3), agent("bot")));
    assert!(life.until(5, |life| weight(life, &v(1)) == 1.0), "the newer one starts at 0");
    assert!(life.until(30, |life| !life.world.observed().arms.contains_key(&v(2).id)));
    reach(&mut life, PhaseKind::Idle, 200);
    assert_eq!(life.state().stable, Some(v(3).id));
    let mut life = with(OnNewer::QueueLatest);
    accepted(life.deployed(&v(3), agent("bot")));
    accepted(life.deployed(&v(4), agent("bot")));
    assert!(life.until(200, |life| life.state().stable == Some(v(2).id)));
    assert!(life.until(200, |life| life.state().stable == Some(v(4).id)), "the newest of those that waited");
    assert!(life.state().ledger.get(&v(3).id).is_none());
    let mut life = with(OnNewer::Refuse);
    assert!(matches!(refused(life.deployed(&v(3), agent("bot"))), Reason::Busy {}));
    fine(&life);
}

#[test]
fn a_person_who_deploys_during_a_restore_waits_for_it() {
    // The running release is taken out, so nothing live could take its traffic: `v1` must be started first.
    let mut life = house_of_two();
    accepted(life.commanded(REVERT, person("ann")));
    assert_eq!(life.phase(), PhaseKind::Reverting);
    let answer = accepted(life.deployed(&v(3), person("bob")));
    assert!(matches!(answer.reason, Reason::Busy {}), "{:?}", answer.reason);
    assert!(life.until(60, |life| weight(life, &v(1)) == 1.0), "the restore went on: {:?}", life.state().phase);
    assert!(life.until(60, |life| life.state().stable == Some(v(1).id)));
    is_back(&life, &v(2), &v(1));
    // Then the newer one has its turn, from 0 and beside what was restored.
    assert!(life.until(90, |life| weight(life, &v(3)) == 0.2), "{}", life.phase());
    assert_eq!(weight(&life, &v(1)), 0.8);
    reach(&mut life, PhaseKind::Idle, 200);
    assert_eq!(life.state().stable, Some(v(3).id));
}

#[test]
fn a_person_who_deploys_while_traffic_is_at_a_live_stable_need_not_wait() {
    let mut life = house_of_two();
    accepted(life.deployed(&v(3), person("ann")));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
    accepted(life.commanded(REVERT, person("ann")));
    assert_eq!(life.phase(), PhaseKind::Reverting);
    let answer = accepted(life.deployed(&v(4), person("bob")));
    assert!(matches!(answer.reason, Reason::Accepted {}), "{:?}", answer.reason);
    assert!(life.until(10, |life| weight(life, &v(2)) == 1.0));
    is_back(&life, &v(3), &v(2));
    reach(&mut life, PhaseKind::Idle, 200);
    assert_eq!(life.state().stable, Some(v(4).id));
}

#[test]
fn deploying_what_is_stable_ends_the_attempt() {
    let mut life = house_of_two();
    accepted(life.deployed(&v(3), agent("bot")));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
    accepted(life.deployed(&v(2), agent("bot")));
    assert!(life.until(5, |life| weight(life, &v(2)) == 1.0 && life.phase() == PhaseKind::Idle));
    assert!(life.until(10, |life| !life.world.observed().arms.contains_key(&v(3).id)));
    fine(&life);
}

#[test]
fn touching_the_template_does_not_shake_evidence_off() {
    let mut life = house_of_two();
    // Slow enough that twenty seconds are not enough to find out.
    life.world.truth.rate = 60;
    spoil(&mut life, &v(3), 0.05);
    for touch in 0..30 {
        life.deployed(&release("v3", touch), agent("bot"));
        life.run(20);
        if life.state().last_revert.is_some() {
            break;
        }
    }
    fine(&life);
    assert!(life.state().last_revert.is_some(), "never reverted");
    assert!(matches!(refused(life.deployed(&release("v3", 99), agent("bot"))), Reason::Quarantined { .. } | Reason::Busy {}));
}

#[test]
fn carried_evidence_survives_a_crash() {
    let mut life = house_of_two();
    spoil(&mut life, &v(3), 0.03);
    accepted(life.deployed(&v(3), agent("bot")));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
    life.run(6);
    accepted(life.deployed(&release("v3", 1), agent("bot")));
    let carried = life.state().trial.unwrap().judge.clone().expect("evidence is in the committed state");
    assert_ne!(carried, backstop::core::judge::Checkpoint::default());
    life.crash(0, 100);
    life.run(1);
    assert_eq!(life.state().trial.unwrap().judge, Some(carried));
}

#[test]
fn a_quarantine_keeps_out_until_a_person_lifts_it() {
    let mut life = house_of_two();
    spoil(&mut life, &v(3), 0.5);
    accepted(life.deployed(&v(3), agent("bot")));
    reach(&mut life, PhaseKind::Reverted, 90);
    assert!(matches!(refused(life.deployed(&v(3), agent("bot"))), Reason::Quarantined { .. }));
    assert!(matches!(refused(life.deployed(&release("v3", 1), agent("bot"))), Reason::Quarantined { .. }));
    assert!(matches!(refused(life.deployed(&v(3), person("ann"))), Reason::Quarantined { .. }));
    assert!(matches!(refused(life.commanded(Verb::Lift { release: None }, agent("bot"))), Reason::NotAllowed { .. }));
    accepted(life.commanded(Verb::Lift { release: Some(v(3).id) }, person("ann")));
    assert_eq!(life.phase(), PhaseKind::Idle);
    life.world.truth.bad_images.clear();
    settle(&mut life, &v(3));
}

#[test]
fn a_good_release_ends_the_hold() {
    let mut life = house_of_two();
    spoil(&mut life, &v(3), 0.5);
    accepted(life.deployed(&v(3), agent("bot")));
    reach(&mut life, PhaseKind::Reverted, 90);
    settle(&mut life, &v(4));
    assert!(life.state().ledger.is_quarantined(&v(3).id), "ending the hold lifts no quarantine");
}

#[test]
fn a_person_takes_the_running_release_back_in_idle() {
    let mut life = house_of_two();
    accepted(life.commanded(REVERT, person("ann")));
    reach(&mut life, PhaseKind::Reverted, 60);
    is_back(&life, &v(2), &v(1));
    assert_eq!(life.world.observed().current, Some(v(1).id));
    assert!(life.world.traffic.dropped <= 100, "members first, then traffic: {} dropped", life.world.traffic.dropped);
}

#[test]
fn the_only_release_is_not_taken_down() {
    let mut guard = guard(house::canary());
    Arc::make_mut(&mut guard.spec).revert.flags.clear();
    let mut life = life_with(guard, house::policy());
    settle(&mut life, &v(1));
    assert!(matches!(refused(life.commanded(REVERT, person("ann"))), Reason::NoTarget {}));
    assert_eq!((life.phase(), weight(&life, &v(1))), (PhaseKind::Idle, 1.0));
}

#[test]
fn flags_alone_leave_traffic_and_members() {
    let mut life = house_of_two();
    accepted(life.deployed(&v(3), person("ann")));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
    accepted(life.commanded(Verb::Revert { to: None, parts: Parts::Flags, break_glass: false }, person("ann")));
    life.run(90);
    fine(&life);
    assert!(life.world.flags.contains_key("new"));
    assert_eq!(weight(&life, &v(3)), 0.2);
    assert!(life.world.is_live(&v(3).id), "what has requests is not stopped");
    // More may be asked for.
    accepted(life.commanded(REVERT, person("ann")));
    assert!(life.until(30, |life| weight(life, &v(3)) == 0.0));
    fine(&life);
}

#[test]
fn flags_asked_for_beside_traffic_take_nothing_of_it_back() {
    let part = |parts| Verb::Revert { to: None, parts, break_glass: false };
    let mut life = house_of_two();
    accepted(life.deployed(&v(3), person("ann")));
    assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
    // Nobody moves traffic for a while.
    life.world.host_back_at = life.world.now + 20_000;
    accepted(life.commanded(part(Parts::Traffic), person("ann")));
    accepted(life.commanded(part(Parts::Flags), person("ann")));
    life.run(5);
    assert!(life.world.flags.contains_key("new"), "flags wait for no traffic");
    assert!(life.state().phase.revert().is_some_and(|revert| revert.parts == Parts::Traffic), "{:?}", life.state().phase);
    assert!(life.until(40, |life| weight(life, &v(3)) == 0.0), "{:?}", life.state().phase);
    fine(&life);
}

#[test]
fn the_release_under_revert_is_no_target() {
    let mut life = house_of_two();
    let to = |of: &Release| Verb::Revert { to: Some(of.id.clone()), parts: Parts::All, break_glass: false };
    assert!(matches!(refused(life.commanded(to(&v(2)), person("ann"))), Reason::NotAllowed { .. }));
    assert!(matches!(refused(life.commanded(to(&v(5)), person("ann"))), Reason::NotAllowed { .. }));
    accepted(life.commanded(to(&v(1)), person("ann")));
    reach(&mut life, PhaseKind::Reverted, 60);
    is_back(&life, &v(2), &v(1));
}

/// Lives that stand in each phase.
fn in_phase(phase: PhaseKind) -> Life {
    let approvals = u32::from(phase == PhaseKind::AwaitingApproval);
    let mut life = life_with(guard(house::canary()), house::policy());
    settle(&mut life, &v(1));
    settle(&mut life, &v(2));
    if approvals > 0 {
        life.tell(Input::PolicyChanged(std::sync::Arc::new(Policy { approvals, ..house::policy() })));
    }
    match phase {
        PhaseKind::Refused => life.world.evidence.entry(image(&v(3))).or_default().good = false,
        PhaseKind::Admitting => life.world.registry = false,
        PhaseKind::Reverting => life.world.flag_service = FlagService::Down,
        PhaseKind::Recovering => life.world.truth.rate = 100,
        _ => {}
    }
    if phase == PhaseKind::Idle {
        return life;
    }
    accepted(life.deployed(&v(3), person("ann")));
    match phase {
        PhaseKind::Reverting | PhaseKind::Recovering | PhaseKind::Reverted | PhaseKind::Stuck => {
            assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
            if phase == PhaseKind::Stuck {
                for number in [1, 2] {
                    life.world.evidence.entry(image(&v(number))).or_default().tampered = true;
                }
            }
            life.commanded(REVERT, person("bob"));
        }
        PhaseKind::Promoting => {
            assert!(life.until(60, |life| weight(life, &v(3)) == 0.2));
            life.commanded(Verb::Pause, person("bob"));
            life.commanded(Verb::Promote, person("bob"));
        }
        _ => {}
    }
    reach(&mut life, phase, 200);
    if phase == PhaseKind::Promoting {
        life.commanded(Verb::Resume, agent("nobody"));
    }
    life
}

fn verb(kind: VerbKind) -> Verb {
    match kind {
        VerbKind::Revert => REVERT,
        VerbKind::Lift => Verb::Lift { release: None },
        VerbKind::Pause => Verb::Pause,
        VerbKind::Resume => Verb::Resume,
        VerbKind::Promote => Verb::Promote,
        VerbKind::Approve => Verb::Approve,
        VerbKind::Freeze => Verb::Freeze,
        VerbKind::Thaw => Verb::Thaw,
        VerbKind::Disarm => Verb::Disarm { span: Span::seconds(5) },
        VerbKind::Arm => Verb::Arm,
        VerbKind::Adopt => Verb::Adopt,
    }
}

#[test]
fn every_verb_in_every_phase_means_what_the_table_says() {
    for phase in PhaseKind::ALL {
        for kind in VerbKind::ALL {
            let mut life = in_phase(phase);
            let answer = life.commanded(verb(kind), person("eve")).expect("an answer");
            fine(&life);
            let after = life.phase();
            let where_ = format!("{} in {phase} → {after}: {answer:?}", kind.name());
            match kind.meaning(phase) {
                Meaning::Nothing => assert!(matches!(answer.reason, Reason::NothingToDo { .. }) && after == phase, "{where_}"),
                Meaning::Cancel => assert!(answer.accepted && after == PhaseKind::Idle, "{where_}"),
                Meaning::Begin | Meaning::Attach | Meaning::Retry => {
                    assert!(answer.accepted && answer.revert.is_some() && life.state().phase.revert().is_some(), "{where_}");
                }
                Meaning::Obey => assert!(answer.accepted, "{where_}"),
            }
            life.run(30);
            fine(&life);
        }
    }
}

#[test]
fn a_persons_revert_wins_in_every_phase_and_agents_cannot_undo_it() {
    for phase in PhaseKind::ALL {
        let mut life = in_phase(phase);
        let under = if phase == PhaseKind::Idle || phase == PhaseKind::Refused { v(2) } else { v(3) };
        life.commanded(REVERT, person("eve"));
        life.faults = Faults::none();
        life.world.flag_service = FlagService::Obeys;
        for verb in VerbKind::ALL {
            life.commanded(self::verb(verb), house::request(ActorKind::Agent, "bot"));
        }
        for touch in 0..3 {
            let again = release(if under == v(2) { "v2" } else { "v3" }, touch);
            life.deployed(&again, agent("bot"));
            life.run(20);
        }
        fine(&life);
        assert_eq!(weight(&life, &under), 0.0, "after a revert in {phase}");
    }
}

#[test]
fn a_policy_that_asks_for_less_does_not_bind_an_attempt_under_way() {
    let mut life = life();
    settle(&mut life, &v(1));
    let mut strict = house::policy();
    strict.attestation.deny.digests.extend(v(2).template.images().into_iter().map(|image| image.digest));
    life.tell(Input::PolicyChanged(std::sync::Arc::new(strict)));
    accepted(life.deployed(&v(2), agent("bot")));
    assert_eq!(life.state().phase.kind(), PhaseKind::Admitting);
    life.tell(Input::PolicyChanged(std::sync::Arc::new(house::policy())));
    reach(&mut life, PhaseKind::Refused, 30);
    assert!(matches!(decided(&life, Decision::Refuse)[0], Some(Reason::DeniedDigest { .. })));
}
