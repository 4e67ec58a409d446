//! A team of threads that stays awake between the steps of a token.
//!
//! A token is hundreds of small parallel steps, microseconds apart: waking a sleeping thread for each would
//! cost more than the step. So a thread without work looks for some for about a tenth of a millisecond
//! before it sleeps. One job runs at a time; a second caller, or a step inside a step, runs alone.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread::Thread;

/// Looks that a thread takes before it sleeps or yields, and how many between two pauses: hypervisors take
/// the core from a guest that pauses all the time.
const LOOKS: u32 = 40_000;
const BREATH: u32 = 64;

/// Waits a moment between two looks.
fn look(looks: u32) {
    if looks.is_multiple_of(BREATH) {
        std::hint::spin_loop();
    }
}

/// How many threads there will be; decided when the first job runs.
static WANTED: AtomicUsize = AtomicUsize::new(0);
static TEAM: OnceLock<Team> = OnceLock::new();

struct Team {
    state: AtomicU64,
    job: UnsafeCell<Job>,
    next: AtomicUsize,
    failed: AtomicBool,
    sleepers: AtomicUsize,
    threads: OnceLock<Vec<Thread>>,
    size: usize,
    busy: Mutex<u64>,
}

/// `state` is the job's number, then how many helpers are inside, then whether more may enter.
const OPEN: u64 = 1;
const ONE: u64 = 2;
const INSIDE: u64 = 0xfffe;
const NUMBER: u32 = 16;

#[derive(Clone, Copy)]
struct Job {
    call: unsafe fn(*const (), usize),
    body: *const (),
    pieces: usize,
}

// SAFETY: `job` is written only by the holder of `busy` while nobody is inside, and read only inside.
unsafe impl Sync for Team {}
// SAFETY: as above; the pointer is only followed inside a job, whose body outlives it.
unsafe impl Send for Team {}

/// Threads that share the work of the CPU path, the caller included.
pub fn threads() -> usize {
    TEAM.get().map_or_else(wanted, |team| team.size)
}

fn wanted() -> usize {
    match WANTED.load(Ordering::Relaxed) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

/// Sets the number of threads of the CPU path; false if work has begun already with another number.
pub fn set_threads(n: usize) -> bool {
    WANTED.store(n.max(1), Ordering::Relaxed);
    threads() == n.max(1)
}

fn team() -> &'static Team {
    let team = TEAM.get_or_init(|| Team {
        state: AtomicU64::new(0),
        job: UnsafeCell::new(Job { call: |_, _| {}, body: std::ptr::null(), pieces: 0 }),
        next: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        sleepers: AtomicUsize::new(0),
        threads: OnceLock::new(),
        size: wanted(),
        busy: Mutex::new(0),
    });
    team.threads.get_or_init(|| {
        let start = |i| std::thread::Builder::new().name(format!("unimlx-{i}")).spawn(|| help(team));
        // A thread that cannot be had is one helper less.
        (1..team.size).filter_map(|i| start(i).ok()).map(|handle| handle.thread().clone()).collect()
    });
    team
}

/// Calls `body` with each of `0..pieces`, on all threads; returns when all are done.
///
/// # Panics
/// If a piece panicked on a helper.
pub(super) fn run<F: Fn(usize) + Sync>(pieces: usize, body: &F) {
    let alone = || (0..pieces).for_each(body);
    if pieces <= 1 {
        return alone();
    }
    let team = team();
    let Ok(mut number) = team.busy.try_lock() else { return alone() };
    if team.size == 1 {
        return alone();
    }
    *number += 1;
    // SAFETY: `body` is an `&F`, made from one below.
    let call: unsafe fn(*const (), usize) = |body, i| unsafe { (*body.cast::<F>())(i) };
    // SAFETY: we hold `busy` and the job before has ended: nobody is inside.
    unsafe { *team.job.get() = Job { call, body: std::ptr::from_ref(body).cast(), pieces } };
    team.next.store(0, Ordering::Relaxed);
    team.state.store(*number << NUMBER | OPEN, Ordering::SeqCst);
    if team.sleepers.load(Ordering::SeqCst) > 0 {
        team.threads.get().into_iter().flatten().for_each(Thread::unpark);
    }
    let mine = catch_unwind(AssertUnwindSafe(|| take(team, body, pieces)));

    team.state.fetch_and(!OPEN, Ordering::AcqRel);
    let mut looks = 0u32;
    while team.state.load(Ordering::Acquire) & INSIDE != 0 {
        looks += 1;
        if looks < LOOKS { look(looks) } else { std::thread::yield_now() }
    }
    let failed = team.failed.swap(false, Ordering::Relaxed);
    drop(number);
    match mine {
        Err(panic) => std::panic::resume_unwind(panic),
        Ok(()) => assert!(!failed, "a piece of parallel work panicked"),
    }
}

/// Takes pieces until there are none.
fn take(team: &Team, body: impl Fn(usize), pieces: usize) {
    loop {
        let i = team.next.fetch_add(1, Ordering::Relaxed);
        if i >= pieces {
            return;
        }
        body(i);
    }
}

/// What a helper does all its life.
fn help(team: &'static Team) {
    let mut done = 0;
    let mut looks = 0;
    loop {
        let state = team.state.load(Ordering::Acquire);
        let open = state & OPEN != 0 && state >> NUMBER != done;
        if open
            && team.state.compare_exchange(state, state + ONE, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            // SAFETY: we are inside an open job: it was written before the job opened and stays until we leave.
            let job = unsafe { *team.job.get() };
            // SAFETY: the caller keeps the body alive until nobody is inside.
            let body = |i| unsafe { (job.call)(job.body, i) };
            if catch_unwind(AssertUnwindSafe(|| take(team, body, job.pieces))).is_err() {
                team.failed.store(true, Ordering::Relaxed);
            }
            team.state.fetch_sub(ONE, Ordering::AcqRel);
            (done, looks) = (state >> NUMBER, 0);
            continue;
        }
        looks += 1;
        if looks < LOOKS {
            look(looks);
            continue;
        }
        // Announce the sleep, then look once more: a job that opened before sees the announcement.
        team.sleepers.fetch_add(1, Ordering::SeqCst);
        let state = team.state.load(Ordering::SeqCst);
        if state & OPEN == 0 || state >> NUMBER == done {
            std::thread::park();
        }
        team.sleepers.fetch_sub(1, Ordering::SeqCst);
        looks = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_runs_once() {
        for pieces in [0, 1, 2, 3, 17, 1000] {
            for _ in 0..200 {
                let counts: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
                run(pieces, &|i: usize| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn steps_nest_and_callers_share() {
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        run(8, &|_| run(8, &|_| _ = total.fetch_add(1, Ordering::Relaxed)));
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 100 * 64);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let failed = catch_unwind(|| run(64, &|i| assert!(i != 40, "piece {i}")));
        assert!(failed.is_err());
        std::thread::sleep(std::time::Duration::from_millis(5));
        let total = AtomicUsize::new(0);
        run(64, &|i| _ = total.fetch_add(i, Ordering::Relaxed));
        assert_eq!(total.into_inner(), 64 * 63 / 2);
    }
}
