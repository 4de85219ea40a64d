//! Plots: one SVG for each scenario that was measured.
//!
//! Bars with the figure written beside them where systems are compared; lines over a logarithmic
//! axis where something grows. A system has the same colour in all of them, from the palette of
//! Okabe and Ito, which people with any colour vision can tell apart; lines differ in their marks,
//! too. A thin line shows the range over the rounds.

use std::error::Error as StdError;
use std::fs;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Report;
use super::table::shown;
use crate::error::{Error, IoContext, Result};
use crate::measure::{Series, Unit};
use crate::options::Scenario;

type Drawn = std::result::Result<(), Box<dyn StdError>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const FONT: &str = "DejaVu Sans, Helvetica, Arial, sans-serif";
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
const WIDTH: u32 = 860;
const RANGE: &str = "thin line: from the least to the greatest round";

/// The colour of a system.
fn colour(who: &str) -> RGBColor {
    match who {
        "kvs" => RGBColor(0x00, 0x72, 0xb2),
        "kvs-original" => RGBColor(0x56, 0xb4, 0xe9),
        "redis" => RGBColor(0xd5, 0x5e, 0x00),
        "redis-benchmark" => RGBColor(0xe6, 0x9f, 0x00),
        "memcached" => RGBColor(0x00, 0x9e, 0x73),
        "lmdb" => RGBColor(0xcc, 0x79, 0xa7),
        _ => RGBColor(0x99, 0x99, 0x99),
    }
}

/// Draws a plot for each scenario.
pub(crate) fn draw(report: &Report<'_>, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).io_context(|| format!("making {}", dir.display()))?;
    for &scenario in &report.settings.scenarios {
        let of = |series: &&Series| series.label.scenario == scenario;
        let mut series: Vec<&Series> = report.results.iter().filter(of).collect();
        // The plot shows only the memory per pair.
        series.retain(|series| series.unit != Unit::Mebibytes);
        if series.is_empty() {
            continue;
        }
        let path = dir.join(format!("{}.svg", scenario.name()));
        let options = report.settings;
        let result = match scenario {
            Scenario::Keys => lines("Time of a get", "keys", &series, &path),
            Scenario::Applications => {
                lines("Time of an operation", "idle applications", &series, &path)
            }
            Scenario::Latency => {
                bars("One client: time of an operation (less is better)", &series, &path)
            }
            Scenario::Clients => {
                bars("Operations per second, by clients (more is better)", &series, &path)
            }
            Scenario::Pipeline => {
                let title = format!(
                    "One client, {} requests in flight: operations per second (more is better)",
                    options.pipeline
                );
                bars(&title, &series, &path)
            }
            Scenario::Callback => {
                let title = "From a put (PUBLISH) to the notification (less is better)";
                bars(title, &series, &path)
            }
            Scenario::Memory => {
                let title =
                    format!("Memory per pair, with {} pairs (less is better)", options.pairs);
                bars(&title, &series, &path)
            }
        };
        result.map_err(|error| Error::Failed(format!("drawing {}: {error}", path.display())))?;
    }
    Ok(())
}

/// A style of text.
fn text(size: u32, horizontal: HPos) -> TextStyle<'static> {
    let style = TextStyle::from((FONT, size)).color(&INK);
    style.pos(Pos::new(horizontal, VPos::Center))
}

/// The name of the unit of an axis, and the divisor of its figures.
fn axis(unit: Unit, most: f64) -> (&'static str, f64) {
    match unit {
        Unit::Nanoseconds => ("µs", 1e3),
        Unit::OperationsPerSecond if most >= 1e6 => ("million operations per second", 1e6),
        Unit::OperationsPerSecond => ("thousand operations per second", 1e3),
        Unit::Bytes => ("bytes", 1.0),
        Unit::Mebibytes => ("MiB", 1.0),
    }
}

fn bounds(series: &Series) -> (f64, f64) {
    let rounds = || series.rounds.iter().copied();
    (rounds().fold(f64::INFINITY, f64::min), rounds().fold(0.0, f64::max))
}

/// A step of 1, 2 or 5 times a power of ten that divides the axis into a handful of parts.
fn step(most: f64) -> f64 {
    let rough = (most / 6.0).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough);
    factor.unwrap_or(10.0) * power
}

/// Formats a figure without insignificant digits.
fn plain(number: f64) -> String {
    if number.fract().abs() < 1e-9 { format!("{number:.0}") } else { format!("{number:.2}") }
}

fn grouped<'a>(series: &[&'a Series]) -> Vec<(String, Vec<&'a Series>)> {
    let mut groups: Vec<(String, Vec<&Series>)> = Vec::new();
    for series in series {
        let label = &series.label;
        let name = match label.at {
            Some(at) => format!("{}, {at}", label.operation),
            None => label.operation.clone(),
        };
        match groups.iter_mut().find(|(group, _)| *group == name) {
            Some((_, members)) => members.push(series),
            None => groups.push((name, vec![series])),
        }
    }
    groups
}

fn bars(title: &str, series: &[&Series], path: &Path) -> Drawn {
    let (left, right, top, bar, gap, bottom) = (190, 130, 56, 22, 18, 56);
    let groups = grouped(series);
    let height = top + bottom + series.len() as i32 * bar + groups.len() as i32 * gap;
    let root = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw(&Text::new(title.to_owned(), (16, 24), text(17, HPos::Left)))?;
    let most = series.iter().map(|series| bounds(series).1).fold(0.0, f64::max);
    let unit = series[0].unit;
    let (name, divisor) = axis(unit, most);
    let across = (WIDTH as i32 - left - right) as f64;
    let x = |figure: f64| left + (figure / most * across).round() as i32;
    let end = height - bottom;
    let step = step(most / divisor);
    for n in 0..=(most / divisor / step) as u32 {
        let at = f64::from(n) * step;
        let position = x(at * divisor);
        root.draw(&PathElement::new(vec![(position, top - 8), (position, end)], GRID))?;
        root.draw(&Text::new(plain(at), (position, end + 12), text(13, HPos::Center)))?;
    }
    let middle = left + (across / 2.0) as i32;
    let range = series.iter().any(|series| series.rounds.len() > 1);
    let name = if range { format!("{name} ({RANGE})") } else { name.to_owned() };
    root.draw(&Text::new(name, (middle, end + 34), text(14, HPos::Center)))?;
    let mut y = top;
    for (group, members) in groups {
        root.draw(&Text::new(group, (16, y + bar / 2), text(14, HPos::Left)))?;
        for series in members {
            let who = &series.label.system;
            let centre = y + bar / 2;
            root.draw(&Text::new(who.clone(), (left - 8, centre), text(13, HPos::Right)))?;
            let corners = [(left, y + 2), (x(series.median), y + bar - 2)];
            root.draw(&Rectangle::new(corners, colour(who).filled()))?;
            let (least, greatest) = bounds(series);
            root.draw(&PathElement::new(vec![(x(least), centre), (x(greatest), centre)], INK))?;
            let label = shown(unit, series.median);
            root.draw(&Text::new(label, (x(greatest) + 8, centre), text(13, HPos::Left)))?;
            y += bar;
        }
        y += gap;
    }
    root.present()?;
    Ok(())
}

fn lines(title: &str, across: &str, series: &[&Series], path: &Path) -> Drawn {
    let (left, right, top, bottom, height) = (80, 190, 56, 64, 430);
    let root = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw(&Text::new(title.to_owned(), (16, 24), text(17, HPos::Left)))?;
    let mut numbers: Vec<u32> = series.iter().filter_map(|series| series.label.at).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let most = series.iter().map(|series| bounds(series).1).fold(0.0, f64::max) * 1.05;
    let (name, divisor) = axis(series[0].unit, most);
    // The axis is logarithmic. 0 is drawn one decade left of 1.
    let position = |at: u32| if at == 0 { -1.0 } else { f64::from(at).log10() };
    let first = numbers.first().copied().map_or(0.0, position);
    let last = numbers.last().copied().map_or(1.0, position).max(first + 1e-9);
    let inside = (f64::from(WIDTH as i32 - left - right), f64::from(height - top - bottom));
    let x = |at: u32| left + ((position(at) - first) / (last - first) * inside.0).round() as i32;
    let y = |figure: f64| height - bottom - (figure / most * inside.1).round() as i32;
    let step = step(most / divisor);
    for n in 0..=(most / divisor / step) as u32 {
        let at = f64::from(n) * step;
        let position = y(at * divisor);
        root.draw(&PathElement::new(
            vec![(left, position), (WIDTH as i32 - right, position)],
            GRID,
        ))?;
        root.draw(&Text::new(plain(at), (left - 8, position), text(13, HPos::Right)))?;
    }
    root.draw(&Text::new(name, (left - 8, top - 14), text(14, HPos::Right)))?;
    for &at in &numbers {
        let label =
            Text::new(at.to_string(), (x(at), height - bottom + 14), text(13, HPos::Center));
        root.draw(&label)?;
    }
    let middle = left + (inside.0 / 2.0) as i32;
    root.draw(&Text::new(
        format!("{across} ({RANGE})"),
        (middle, height - 22),
        text(14, HPos::Center),
    ))?;

    let mut curves: Vec<(String, &str, Vec<&Series>)> = Vec::new();
    for series in series {
        let name = format!("{}, {}", series.label.system, series.label.operation);
        match curves.iter_mut().find(|(curve, ..)| *curve == name) {
            Some((.., points)) => points.push(series),
            None => curves.push((name, &series.label.system, vec![series])),
        }
    }
    let mut ends = Vec::new();
    for (n, (name, who, mut points)) in curves.into_iter().enumerate() {
        points.sort_by_key(|series| series.label.at);
        let colour = colour(who);
        let places: Vec<(i32, i32)> = points
            .iter()
            .filter_map(|series| Some((x(series.label.at?), y(series.median))))
            .collect();
        root.draw(&PathElement::new(places.clone(), colour.stroke_width(2)))?;
        for (series, &(at, height)) in points.iter().zip(&places) {
            let (least, greatest) = bounds(series);
            root.draw(&PathElement::new(vec![(at, y(least)), (at, y(greatest))], colour))?;
            mark(&root, n, (at, height), colour)?;
        }
        if let Some(&(_, height)) = places.last() {
            ends.push((height, n, name, colour));
        }
    }
    // The name of a curve is at its end, or as near as the other names allow.
    ends.sort_by_key(|&(height, n, ..)| (height, n));
    let mut free = top;
    for (height, n, name, colour) in ends {
        let position = height.max(free);
        free = position + 18;
        let left = WIDTH as i32 - right + 22;
        mark(&root, n, (left, position), colour)?;
        root.draw(&Text::new(name, (left + 12, position), text(13, HPos::Left)))?;
    }
    root.present()?;
    Ok(())
}

/// The mark of the n-th curve.
fn mark(area: &Area<'_>, n: usize, (x, y): (i32, i32), colour: RGBColor) -> Drawn {
    let fill = colour.filled();
    match n % 4 {
        0 => area.draw(&Circle::new((x, y), 5, fill))?,
        1 => area.draw(&Rectangle::new([(x - 4, y - 4), (x + 4, y + 4)], fill))?,
        2 => area.draw(&TriangleMarker::new((x, y), 6, fill))?,
        _ => {
            area.draw(&Polygon::new(vec![(x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y)], fill))?
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_is_divided_into_a_handful_of_round_steps() {
        for most in [0.7, 3.0, 42.0, 999.0, 123_456.0] {
            let step = step(most);
            let parts = most / step;
            assert!((2.0..=7.0).contains(&parts), "{most}: {parts} parts of {step}");
        }
    }
}
