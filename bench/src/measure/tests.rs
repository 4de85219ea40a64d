//! Statistics, interleaving and single measurements.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cell::{Cell, Sample};
use super::interleave::interleave_stages;
use super::label::Label;
use super::limit::{Interrupt, Limit, Measurement};
use super::series::Unit;
use super::statistics::{Ratio, median};
use super::times::{histogram, time_each};
use crate::error::Error;
use crate::options::Scenario;
use crate::report::progress::Progress;
use crate::system::System;

#[test]
fn median_is_the_middle_or_the_mean_of_the_middle_two() {
    assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), 3.0);
    assert_eq!(median(&[5.0]), 5.0);
    assert!(median(&[]).is_nan());
}

#[test]
fn ratio_is_of_the_medians() {
    let ratio = Ratio::of(&[1.0, 2.0, 9.0], &[4.0, 1.0, 3.0]).unwrap();
    // The ratios within the rounds are 0.25, 2 and 3.
    assert_eq!(ratio, Ratio { of_medians: 2.0 / 3.0, min: 0.25, max: 3.0, paired: 2.0 });
}

#[test]
fn ratio_needs_figures() {
    assert_eq!(Ratio::of(&[1.0], &[]), None);
    assert_eq!(Ratio::of(&[1.0], &[0.0]), None);
}

#[test]
fn each_round_measures_every_cell_once_in_stage_order() {
    use clap::Parser;
    let arguments = crate::options::Arguments::parse_from(["kvs-bench", "--rounds", "3", "-n1"]);
    let (options, progress) = (arguments.resolve(), Progress::none());
    let (measured, prepared) = (std::cell::RefCell::new(Vec::new()), std::cell::Cell::new(9));
    let stage = |stage: usize| {
        let cell = |n: u32| {
            let (measured, prepared) = (&measured, &prepared);
            let label = Label::new(Scenario::Latency, "get", System::Kvs).at(n);
            Cell::new(label, Unit::Nanoseconds, move |_: &Measurement| {
                assert_eq!(prepared.get(), stage, "the stage is prepared");
                measured.borrow_mut().push((stage, n));
                Ok(Sample::new(f64::from(n) + 1.0))
            })
        };
        vec![cell(0), cell(1), cell(2)]
    };
    let mut order = Vec::new();
    let mut results = Vec::new();
    let prepare = |stage| {
        prepared.set(stage);
        order.push(stage);
        Ok(())
    };
    let interrupt = Interrupt::default();
    let stages = vec![stage(0), stage(1)];
    interleave_stages(&options, &progress, &interrupt, stages, prepare, &mut results).unwrap();
    assert_eq!(order, [0, 1, 1, 0, 0, 1]);
    for round in measured.borrow().chunks(6) {
        let mut round = round.to_vec();
        round.sort_unstable();
        assert_eq!(round, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
    }
    assert_eq!(results.len(), 6);
    assert!(results.iter().all(|series| series.rounds.len() == 3));
}

#[test]
fn invalid_figure_is_an_error() {
    let label = Label::new(Scenario::Latency, "get", System::Kvs);
    let mut cell = Cell::new(label, Unit::Nanoseconds, |_| Ok(Sample::new(1.0)));
    for figure in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(cell.add(Sample::new(figure)).is_err(), "{figure}");
    }
    assert!(cell.finish().is_none());
}

fn measurement(limit: Limit) -> Measurement {
    Measurement { limit, warm_up: limit.warm_up(), position: 10, interrupt: Interrupt::default() }
}

#[test]
fn warm_up_is_not_recorded() {
    let mut positions = Vec::new();
    let times = time_each(&measurement(Limit::Operations(10)), |position| {
        positions.push(position);
        Ok(())
    });
    assert_eq!(times.unwrap().len(), 10);
    assert_eq!(positions, (10..22).collect::<Vec<_>>());
}

#[test]
fn interrupt_ends_a_measurement() {
    let measurement = measurement(Limit::Time(Duration::from_secs(600)));
    let result = time_each(&measurement, |_| {
        measurement.interrupt.0.store(true, Ordering::Relaxed);
        Ok(())
    });
    assert!(matches!(result, Err(Error::Interrupted)));
}

#[test]
fn cell_combines_its_rounds() {
    let label = Label::new(Scenario::Latency, "get", System::Kvs);
    let mut cell = Cell::new(label, Unit::Nanoseconds, |_| Ok(Sample::new(0.0)));
    for time in [100, 300, 200] {
        let mut times = histogram();
        times.record(time).unwrap();
        let sample = Sample::latency(times).with_server_time(Duration::from_nanos(time), 10);
        cell.samples.push(sample);
    }
    let series = cell.finish().unwrap();
    assert_eq!((series.median, series.server_time), (200.0, Some(20.0)));
    let percentiles = series.percentiles.unwrap();
    assert_eq!((percentiles.operations, percentiles.max), (3, 300));
}
