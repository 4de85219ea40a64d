//! One connection with many requests in flight: its throughput.
//!
//! kvs is used through its library, which sends a batch with one call and waits for all responses.
//! Redis is measured twice: by its own redis-benchmark (`-P`), run as a program, and through
//! hiredis as a program would use it, the counterpart of the library of kvs. redis-benchmark
//! generates its keys, so all systems have keys of its form; it draws them uniformly.

use std::cell::RefCell;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Instant;

use super::bench::Bench;
use super::fleet::Fleet;
use crate::error::{Error, IoContext, Result, failed};
use crate::keys::{Keys, Shape};
use crate::measure::{Cell, Label, Limit, Measurement, Sample, Unit};
use crate::options::{Options, Scenario};
use crate::servers::on_path;
use crate::system::kvs::{Kvs, KvsProtocol};
use crate::system::{Pipelined, System};

const SCENARIO: Scenario = Scenario::Pipeline;

/// The name of the figures of redis-benchmark in the report.
pub(crate) const REDIS_BENCHMARK: &str = "redis-benchmark";

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let options = bench.options;
    let fleet = Fleet::start(bench, SCENARIO, &[System::Kvs, System::Redis])?;
    let shape = Shape::REDIS_BENCHMARK;
    let keys = Keys::draw(shape, options.keys, options.distribution, options.seed);
    let value = bench.value();
    fleet.fill(bench, shape, keys.count)?;
    let mut cells = Vec::new();
    if let Some((_, address)) = &fleet.kvs {
        let client = Kvs::open(address, KvsProtocol::V2);
        if let Some(client) = bench.available(SCENARIO, System::Kvs, client)? {
            cells.extend(of_client(options, System::Kvs, client, &keys, &value));
        }
    }
    if let Some(server) = &fleet.redis {
        #[cfg(feature = "redis")]
        {
            let client = crate::system::redis::Redis::connect(&server.socket)?;
            cells.extend(of_client(options, System::Redis, client, &keys, &value));
        }
        if on_path(&options.redis_benchmark).is_some() {
            for (operation, test) in [("get", "get"), ("put", "set")] {
                let mut label = Label::new(SCENARIO, operation, System::Redis);
                REDIS_BENCHMARK.clone_into(&mut label.system);
                let mut speed = None;
                cells.push(Cell::new(label, Unit::OperationsPerSecond, move |measurement| {
                    redis_benchmark(options, &server.socket, test, measurement, &mut speed)
                }));
            }
        } else {
            let program = options.redis_benchmark.display();
            let missing =
                Error::Unavailable(format!("{program} was not found (--redis-benchmark PATH)"));
            bench.available(SCENARIO, System::Redis, Err::<(), _>(missing))?;
        }
    }
    bench.measure(cells)
}

fn of_client<'a>(
    options: &Options,
    system: System,
    client: impl Pipelined + 'a,
    keys: &'a Keys,
    value: &'a [u8],
) -> Vec<Cell<'a>> {
    let client = Rc::new(RefCell::new(client));
    let cell = |(operation, is_get)| {
        let client = Rc::clone(&client);
        let mut batch = vec![keys.shape.buffer(); options.pipeline as usize];
        let label = Label::new(SCENARIO, operation, system);
        Cell::new(label, Unit::OperationsPerSecond, move |measurement: &Measurement| {
            let mut client = client.borrow_mut();
            let mut position = measurement.position;
            let mut repeat = |limit: Limit| {
                let (begun, mut count) = (Instant::now(), 0);
                loop {
                    for key in &mut batch {
                        keys.shape.write(keys.at(position), key);
                        position += 1;
                    }
                    client.batch(&batch, value, is_get)?;
                    count += batch.len() as u64;
                    let now = Instant::now();
                    if limit.is_reached(begun, now, count) {
                        return Ok(count as f64 / now.duration_since(begun).as_secs_f64());
                    }
                    measurement.interrupt.check()?;
                }
            };
            repeat(measurement.warm_up)?;
            Ok(Sample::new(repeat(measurement.limit)?))
        })
    };
    [("get", true), ("put", false)].into_iter().map(cell).collect()
}

/// Runs the program for about as long as the measurements of the others. `speed` is its last
/// result.
fn redis_benchmark(
    options: &Options,
    socket: &Path,
    test: &str,
    measurement: &Measurement,
    speed: &mut Option<f64>,
) -> Result<Sample> {
    let run = |requests: u64| {
        measurement.interrupt.check()?;
        let mut command = Command::new(&options.redis_benchmark);
        command.arg("-s").arg(socket).args(["-c", "1", "--csv", "-t", test]);
        command.args(["-P", &options.pipeline.to_string(), "-n", &requests.to_string()]);
        command.args(["-d", &options.value_size.to_string(), "-r", &options.keys.to_string()]);
        let output = command.stdin(Stdio::null()).output();
        let output = output.io_context(|| "running redis-benchmark".into())?;
        let text = String::from_utf8_lossy(&output.stdout);
        match csv_speed(&text, test) {
            Some(found) if output.status.success() => Ok(found),
            _ => failed(format!("redis-benchmark: {}: {}", output.status, text.trim())),
        }
    };
    let last = match *speed {
        Some(last) => last,
        None => run(5_000)?,
    };
    let requests = |limit| match limit {
        Limit::Operations(operations) => operations,
        // The number of requests is positive and far below 2^64.
        Limit::Time(time) => ((last * time.as_secs_f64()) as u64).max(1000),
    };
    run(requests(measurement.warm_up))?;
    let found = run(requests(measurement.limit))?;
    *speed = Some(found);
    Ok(Sample::new(found))
}

/// The requests per second of a test: the second field of its line.
fn csv_speed(text: &str, test: &str) -> Option<f64> {
    let mut lines = text.lines().map(|line| line.split(',').map(|field| field.trim_matches('"')));
    lines.find_map(|mut fields| {
        let is_it = fields.next()?.eq_ignore_ascii_case(test);
        is_it.then(|| fields.next()?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_parsed_from_redis_benchmark() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\"\n\
                    \"SET\",\"123456.78\",\"0.1\"\n\"GET\",\"9.5\",\"0.1\"\n";
        assert_eq!(csv_speed(text, "set"), Some(123_456.78));
        assert_eq!(csv_speed(text, "get"), Some(9.5));
        assert_eq!(csv_speed(text, "incr"), None);
        assert_eq!(csv_speed("\"SET\"\n", "set"), None);
    }
}
