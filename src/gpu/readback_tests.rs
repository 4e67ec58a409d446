//! Results that come back while later work is already running.

use std::sync::Arc;

use super::device::lock;
use super::tests::{open, scale, upload, words};
use super::*;

/// Both buffers hold `a x + b` after a step of `x -> y -> x`, from 4 words.
fn counter(gpu: &Arc<Gpu>) -> (Prepared, Vec<Buffer>) {
    let buffers = vec![upload(gpu, &[0, 100, 200, 300]), gpu.alloc(16).unwrap()];
    let copy = Step::Copy { src: 1, src_offset: 0, dst: 0, dst_offset: 0, bytes: 16 };
    let recording =
        Recording { buffers: vec![16, 16], steps: vec![Step::Dispatch(scale(4, 1, 1, 0, 1)), copy] };
    (gpu.prepare(&recording, &buffers).unwrap(), buffers)
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().unwrap())
}

#[test]
fn a_step_runs_while_the_one_before_is_read() {
    for disable in [&[][..], &["unified"], &["fast-device"]] {
        let Some(gpu) = open(disable) else { return };
        let (step, buffers) = counter(&gpu);
        let mut last = gpu.run_and_read(&step, &buffers[1], 4, 4).unwrap();
        for i in 0..100 {
            let next = gpu.run_and_read(&step, &buffers[1], 4, 4).unwrap();
            assert!(next.ticket() > last.ticket());
            let mut token = [0; 4];
            last.wait_into(&mut token).unwrap();
            assert_eq!(word(&token), 101 + i);
            last = next;
        }
        assert_eq!(word(&last.wait().unwrap()), 201);
        assert_eq!(lock(&gpu.readbacks).len(), 2, "two buffers take turns");
        assert_eq!(words(&gpu, &buffers[0]), [101, 201, 301, 401]);
    }
}

#[test]
fn many_results_may_be_on_their_way() {
    let Some(gpu) = open(&[]) else { return };
    let (step, buffers) = counter(&gpu);
    let pending: Vec<Pending> =
        (0..50).map(|_| gpu.run_and_read(&step, &buffers[1], 0, 16).unwrap()).collect();
    // In any order, and some not at all.
    for (i, one) in pending.into_iter().enumerate().rev().filter(|(i, _)| i % 3 > 0) {
        let values = one.wait().unwrap();
        let expected: Vec<u32> = (0..4).map(|k| 100 * k + i as u32 + 1).collect();
        assert_eq!(values, bytemuck::cast_slice::<u32, u8>(&expected));
    }
    assert!(lock(&gpu.readbacks).len() <= 32);
    gpu.wait().unwrap();
    assert_eq!(words(&gpu, &buffers[0])[0], 50);
}

#[test]
fn any_range_is_read_as_it_is_then() {
    let Some(gpu) = open(&[]) else { return };
    let data: Vec<u8> = (0..1023).map(|i| (i * 7) as u8).collect();
    let buffer = gpu.alloc(1023).unwrap();
    gpu.write(&buffer, 0, &data).unwrap();
    for (offset, bytes) in [(0, 0), (0, 1), (3, 2), (1023, 0), (1020, 3), (5, 1000), (0, 1023)] {
        let range = offset as usize..(offset + bytes) as usize;
        assert_eq!(gpu.read_later(&buffer, offset, bytes).unwrap().wait().unwrap(), data[range]);
    }
    let before = gpu.read_later(&buffer, 8, 4).unwrap();
    gpu.write(&buffer, 8, &[1, 2, 3, 4]).unwrap();
    assert_eq!(before.wait().unwrap(), data[8..12], "what is written later does not show");
    assert!(gpu.read_later(&buffer, 1000, 24).unwrap_err().is_input());
    let e = gpu.read_later(&buffer, 0, 4).unwrap().wait_into(&mut [0; 5]).unwrap_err();
    assert!(e.is_input() && e.to_string().contains("4 bytes"), "{e}");
}

#[test]
fn threads_read_back_at_the_same_time() {
    let Some(gpu) = open(&[]) else { return };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (step, buffers) = counter(&gpu);
                for i in 1..=50 {
                    let token = gpu.run_and_read(&step, &buffers[0], 8, 4).unwrap();
                    assert_eq!(word(&token.wait().unwrap()), 200 + i);
                }
            });
        }
    });
}

#[test]
fn a_ticket_is_waited_for() {
    let Some(gpu) = open(&[]) else { return };
    let (step, buffers) = counter(&gpu);
    let (one, two) = (gpu.start(&step).unwrap(), gpu.start(&step).unwrap());
    assert!(one < two);
    gpu.wait_for(two).unwrap();
    gpu.wait_for(one).unwrap();
    assert_eq!(words(&gpu, &buffers[1])[0], 2);
    let nothing = gpu.prepare(&Recording::default(), &[]).unwrap();
    gpu.wait_for(gpu.start(&nothing).unwrap()).unwrap();
    assert_eq!(gpu.run_and_read(&nothing, &buffers[1], 0, 4).unwrap().wait().unwrap(), [2, 0, 0, 0]);
}

#[test]
fn a_watch_sees_what_is_read_back() {
    let Some(gpu) = open(&[]) else { return };
    if !gpu.caps().timestamps {
        return;
    }
    let (step, buffers) = counter(&gpu);
    let step = step.with_max_dispatches(1);
    for (detail, dispatches) in [(Detail::Submissions, 0), (Detail::Dispatches, 2)] {
        let mut read = Vec::new();
        let seen = watch(&gpu, detail, || {
            let one = gpu.run_and_read(&step, &buffers[1], 0, 4)?;
            let two = gpu.start(&step)?;
            assert!(one.ticket() < two);
            read = one.wait()?;
            gpu.wait_for(two)
        });
        let seen = seen.unwrap();
        assert!(seen.seconds > 0.0);
        assert_eq!(seen.dispatches.len(), dispatches);
        assert_eq!(word(&read), words(&gpu, &buffers[1])[0] - 1);
    }
    assert_eq!(words(&gpu, &buffers[1])[0], 4);
}

#[test]
fn a_refused_submission_says_why_and_work_goes_on() {
    let Some(gpu) = open(&[]) else { return };
    let (step, buffers) = counter(&gpu);
    let target = gpu.alloc_readback(16).unwrap();
    gpu.run(&step).unwrap();
    // Memory for results cannot be copied from.
    let e = gpu.read_later(&target, 0, 4).unwrap_err();
    assert!(e.is_device() && e.to_string().starts_with("reading back: "), "{e}");
    assert!(e.to_string().contains("COPY_SRC"), "the cause, not its consequence: {e}");
    assert_eq!(gpu.run_and_read(&step, &buffers[1], 0, 4).unwrap().wait().unwrap(), [2, 0, 0, 0]);
}

#[test]
fn a_lost_device_hands_nothing_over() {
    let Some(gpu) = open(&[]) else { return };
    let (step, buffers) = counter(&gpu);
    let pending = gpu.run_and_read(&step, &buffers[1], 0, 4).unwrap();
    gpu.device.destroy();
    match pending.wait() {
        Ok(word) => assert_eq!(word, [1, 0, 0, 0]),
        Err(e) => assert!(e.is_device(), "{e}"),
    }
    let later = gpu.run_and_read(&step, &buffers[1], 0, 4).and_then(Pending::wait);
    assert!(later.unwrap_err().is_device());
}
