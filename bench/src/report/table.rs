//! The table on standard output: what was measured where, the figures, the targets.

use std::io::{self, Write};

use super::Report;
use super::targets::{Bound, faster, find};
use crate::measure::{Ratio, Series, Unit};
use crate::options::Scenario;
use crate::system::System;

/// Prints the report.
pub(crate) fn print(report: &Report<'_>, out: &mut impl Write) -> io::Result<()> {
    head(report, out)?;
    for &scenario in &report.settings.scenarios {
        let of = |series: &&Series| series.label.scenario == scenario;
        let series: Vec<&Series> = report.results.iter().filter(of).collect();
        if !series.is_empty() {
            writeln!(out, "\n{}", title(report, scenario))?;
            rows(report, scenario, series, out)?;
        }
    }
    targets(report, out)?;
    if !report.skipped.is_empty() {
        writeln!(out, "\nskipped")?;
        report.skipped.iter().try_for_each(|line| writeln!(out, "  {line}"))?;
    }
    match &report.ended_by {
        Some(why) => writeln!(out, "\nended early: {why}"),
        None => Ok(()),
    }
}

fn head(report: &Report<'_>, out: &mut impl Write) -> io::Result<()> {
    let (machine, options) = (&report.machine, report.settings);
    writeln!(
        out,
        "{}, {} processors, {} MiB, {}; load before: {}; files on {}",
        machine.processor,
        machine.processors,
        machine.memory_mib,
        machine.kernel,
        machine.load_average,
        machine.file_system
    )?;
    for version in &machine.versions {
        writeln!(
            out,
            "  {:<13} {}; {}; {}",
            version.system.name(),
            version.version,
            version.client,
            version.settings
        )?;
    }
    let each = match options.operations {
        Some(operations) => format!("{operations} operations"),
        None => format!("{} s", options.seconds),
    };
    writeln!(
        out,
        "{} rounds of {each} each, after a fifth of it to warm up; values of {} bytes, keys of 10 \
         (pipeline: 16), {} keys, {}, seed {}",
        options.rounds, options.value_size, options.keys, options.distribution, options.seed
    )?;
    if machine.was_busy() {
        writeln!(
            out,
            "NOTE: the machine had other work: times are too long, ratios uncertain. Run again on \
             an idle machine."
        )?;
    }
    writeln!(out, "median: over the rounds; from, to: least and greatest round")
}

fn title(report: &Report<'_>, scenario: Scenario) -> String {
    let options = report.settings;
    match scenario {
        Scenario::Latency => "latency: one client, one operation at a time".into(),
        Scenario::Clients => format!(
            "clients: many at once, {} request(s) in flight each, {} generator thread(s)",
            options.depth, options.threads
        ),
        Scenario::Pipeline => {
            format!("pipeline: one client, {} requests in flight", options.pipeline)
        }
        Scenario::Callback => {
            "callback: from a put (PUBLISH) to the notification in another process".into()
        }
        Scenario::Memory => format!("memory: of the server, {} pairs", options.pairs),
        Scenario::Keys => "keys: get, by number of keys".into(),
        Scenario::Applications => {
            "applications: one active application, by number of idle ones".into()
        }
    }
}

fn rows(
    report: &Report<'_>,
    scenario: Scenario,
    mut series: Vec<&Series>,
    out: &mut impl Write,
) -> io::Result<()> {
    // Group the series that are compared. The sort keeps the order of the systems within a group.
    series.sort_by_key(|series| (series.label.operation.clone(), series.label.at));
    let ratios = scenario == Scenario::Latency;
    let has_times = series.iter().any(|series| series.percentiles.is_some());
    let has_server = series.iter().any(|series| series.server_time.is_some());
    write!(out, "  {:<9} {:>8} {:<16}{:>13}{:>12}{:>12}", "", "", "", "median", "from", "to")?;
    if has_times {
        write!(out, "{:>11}{:>11}", "p99", "p99.9")?;
    }
    if has_server {
        write!(out, "{:>13}", "server/op")?;
    }
    if ratios {
        write!(out, "{:>9}{:>12}", ": floor", ": faster*")?;
    }
    writeln!(out)?;
    for series in series {
        let label = &series.label;
        let at = label.at.map(|at| at.to_string()).unwrap_or_default();
        let figure = |figure| shown(series.unit, figure);
        let (least, most) = bounds(&series.rounds);
        write!(out, "  {:<9} {at:>8} {:<16}", label.operation, label.system)?;
        write!(out, "{:>13}{:>12}{:>12}", figure(series.median), figure(least), figure(most))?;
        // Times are far below 2^53 ns.
        let time = |time: u64| shown(Unit::Nanoseconds, time as f64);
        if has_times {
            let [p99, p999] = match &series.percentiles {
                Some(percentiles) => [time(percentiles.p99), time(percentiles.p999)],
                None => Default::default(),
            };
            write!(out, "{p99:>11}{p999:>11}")?;
        }
        if has_server {
            let time = series.server_time.map(|time| shown(Unit::Nanoseconds, time));
            write!(out, "{:>13}", time.unwrap_or_default())?;
        }
        if ratios {
            let floor =
                find(report.results, (scenario, &label.operation, System::Floor.name(), None));
            let faster = faster(report.results, scenario, &label.operation);
            let ratio = |other: Option<&Series>| {
                let ratio = other.and_then(|other| Ratio::of(&series.rounds, &other.rounds));
                ratio.map(|ratio| format!("{:.2}", ratio.of_medians)).unwrap_or_default()
            };
            write!(out, "{:>9}{:>12}", ratio(floor), ratio(faster))?;
        }
        writeln!(out)?;
    }
    if ratios {
        writeln!(out, "  * of redis and memcached")?;
    }
    Ok(())
}

fn bounds(figures: &[f64]) -> (f64, f64) {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    (least, figures.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

/// A figure with its unit.
pub(crate) fn shown(unit: Unit, figure: f64) -> String {
    match unit {
        Unit::Nanoseconds if figure >= 1e6 => format!("{:.2} ms", figure / 1e6),
        Unit::Nanoseconds => format!("{:.2} µs", figure / 1e3),
        Unit::OperationsPerSecond if figure >= 1e6 => format!("{:.2} M/s", figure / 1e6),
        Unit::OperationsPerSecond => format!("{:.1} k/s", figure / 1e3),
        Unit::Bytes => format!("{figure:.1} B"),
        Unit::Mebibytes => format!("{figure:.1} MiB"),
    }
}

fn targets(report: &Report<'_>, out: &mut impl Write) -> io::Result<()> {
    let measured: Vec<_> = report.targets.iter().filter(|target| target.ratio.is_some()).collect();
    if measured.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\ntargets (ratio: of the medians, decisive; paired: median of the ratios of the rounds)"
    )?;
    writeln!(
        out,
        "  {:<56}{:>8}{:>8}{:>8}{:>8}{:>9}  {:<8}rounds",
        "", "aim", "ratio", "paired", "from", "to", ""
    )?;
    for target in &measured {
        let aim = match target.bound {
            Bound::AtMost(most) => format!("≤ {most:.2}"),
            Bound::AtLeast(least) => format!("≥ {least:.2}"),
        };
        let verdict = match (target.met, target.certain) {
            (Some(true), true) => "met",
            (Some(true), false) => "met?",
            (_, true) => "missed",
            (_, false) => "missed?",
        };
        if let Some(ratio) = target.ratio {
            write!(out, "  {:<56}{aim:>8}{:>8.3}", target.what, ratio.of_medians)?;
            write!(out, "{:>8.3}{:>8.3}{:>9.3}", ratio.paired, ratio.min, ratio.max)?;
            writeln!(out, "  {verdict:<8}{} of {}", target.rounds_met, target.rounds)?;
        }
    }
    let met = measured.iter().filter(|target| target.met == Some(true)).count();
    let sure = measured.iter().filter(|target| target.met == Some(true) && target.certain).count();
    let missing = report.targets.len() - measured.len();
    write!(out, "  {met} of {} met, {sure} of them surely", measured.len())?;
    if missing > 0 {
        write!(out, "; {missing} not measured")?;
    }
    writeln!(out, " (?: more than a quarter of the rounds say otherwise)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_with_a_unit_that_suits_them() {
        assert_eq!(shown(Unit::Nanoseconds, 12_345.0), "12.35 µs");
        assert_eq!(shown(Unit::Nanoseconds, 2_500_000.0), "2.50 ms");
        assert_eq!(shown(Unit::OperationsPerSecond, 98_765.0), "98.8 k/s");
        assert_eq!(shown(Unit::OperationsPerSecond, 1_250_000.0), "1.25 M/s");
    }

    #[test]
    fn bounds_are_the_least_and_the_greatest() {
        assert_eq!(bounds(&[2.0, 1.0, 3.0]), (1.0, 3.0));
    }
}
