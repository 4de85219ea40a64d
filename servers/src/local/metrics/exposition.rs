//! A snapshot in the text format of Prometheus.
//!
//! Everything is gathered when it is asked for, so a group that is deleted is gone from the next answer. Counters do not
//! go backwards as long as the server runs; they begin at 0 with each start.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Registry, TextEncoder};

use super::counts::{BUCKETS, ENDS, LOGINS, OPERATIONS, RESULTS, is_possible};
use super::snapshot::{GroupState, Snapshot};
use crate::local::limits::quota::UserUsage;

/// The type of the answer.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text.
///
/// # Errors
/// None that is known: the names are ours.
pub(super) fn text(snapshot: &Arc<Snapshot>) -> prometheus::Result<String> {
    let registry = Registry::new();
    registry.register(Box::new(Exposition(Arc::clone(snapshot))))?;
    TextEncoder::new().encode_to_string(&registry.gather())
}

struct Exposition(Arc<Snapshot>);

impl Collector for Exposition {
    /// Nothing else is registered beside it that could be in conflict.
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = of_operations(&self.0);
        families.extend(of_groups(&self.0));
        families.extend(of_server(&self.0));
        families
    }
}

fn of_operations(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let totals = &snapshot.totals;
    let mut operations = Vec::new();
    let mut latencies = Vec::new();
    for (number, (operation, counts)) in OPERATIONS.iter().zip(&totals.operations).enumerate() {
        for (of_result, (result, count)) in RESULTS.iter().zip(counts.results).enumerate() {
            if is_possible(number, of_result) || count > 0 {
                operations.push(counter(count, &[("operation", operation), ("result", result)]));
            }
        }
        let seconds = counts.nanoseconds as f64 / 1e9;
        latencies.push(histogram(&counts.buckets, seconds, &[("operation", operation)]));
    }
    let by = |name: &'static str, names: &[&str], counts: &[u64]| {
        names.iter().zip(counts).map(|(value, count)| counter(*count, &[(name, value)])).collect()
    };
    vec![
        family(
            "kvs_operations_total",
            "Operations that were carried out or refused, by kind and result.",
            MetricType::COUNTER,
            operations,
        ),
        family(
            "kvs_operation_duration_seconds",
            "Time from the moment when the server has read a request to the moment when its answer is handed to the \
             kernel, or queued if the application does not take it. The requests of one read count from that read, \
             answers that go out together to the same moment. A put in an original session has no answer: for it, \
             until it is stored.",
            MetricType::HISTOGRAM,
            latencies,
        ),
        family(
            "kvs_logins_total",
            "Logins by result: ok, or why there was no session. limit: too many connections of the user or process.",
            MetricType::COUNTER,
            by("result", &LOGINS, &totals.logins),
        ),
        family(
            "kvs_sessions_ended_total",
            "Sessions that have ended after their login, by reason.",
            MetricType::COUNTER,
            by("reason", &ENDS, &totals.ends),
        ),
        one(
            "kvs_changes_noted_total",
            "Changes of keys noted for the applications that watch them, one for each application.",
            MetricType::COUNTER,
            totals.noted as f64,
        ),
        one(
            "kvs_callbacks_merged_total",
            "Changes that were merged with one of the same key that waited to be told already.",
            MetricType::COUNTER,
            totals.merged as f64,
        ),
        one(
            "kvs_callbacks_sent_total",
            "Changes sent to applications.",
            MetricType::COUNTER,
            totals.sent as f64,
        ),
    ]
}

fn of_groups(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let (groups, sum) = (&snapshot.groups, &snapshot.sum);
    let each = |value: fn(&GroupState) -> f64| -> Vec<Metric> {
        groups.iter().map(|group| gauge(value(group), &[("group", &group.label)])).collect()
    };
    let applications = groups.iter().flat_map(|group| {
        let session =
            |name, count| gauge(count as f64, &[("group", &group.label), ("session", name)]);
        [session("framed", group.figures.framed), session("original", group.figures.original)]
    });
    vec![
        one(
            "kvs_groups",
            "Groups. The first 1000 of them have metrics of their own.",
            MetricType::GAUGE,
            (groups.len() + snapshot.groups_left_out) as f64,
        ),
        one("kvs_pairs", "Key-value pairs of all groups.", MetricType::GAUGE, sum.pairs as f64),
        one(
            "kvs_pairs_bytes",
            "Bytes of the keys and values of all groups.",
            MetricType::GAUGE,
            sum.bytes as f64,
        ),
        family(
            "kvs_group_applications",
            "Applications that are connected, by group and kind of session.",
            MetricType::GAUGE,
            applications.collect(),
        ),
        family(
            "kvs_group_pairs",
            "Key-value pairs, by group.",
            MetricType::GAUGE,
            each(|group| group.figures.pairs as f64),
        ),
        family(
            "kvs_group_bytes",
            "Bytes of keys and values, by group.",
            MetricType::GAUGE,
            each(|group| group.figures.bytes as f64),
        ),
        family(
            "kvs_applications",
            "Applications that are connected, by kind of session.",
            MetricType::GAUGE,
            vec![
                gauge(sum.framed as f64, &[("session", "framed")]),
                gauge(sum.original as f64, &[("session", "original")]),
            ],
        ),
    ]
}

fn of_server(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let (totals, limits) = (&snapshot.totals, &snapshot.limits);
    let by_user = |value: fn(&UserUsage) -> f64| -> Vec<Metric> {
        let each = snapshot.users.iter();
        each.map(|user| gauge(value(user), &[("uid", &user.uid.to_string())])).collect()
    };
    let up = MetricType::COUNTER;
    let now = MetricType::GAUGE;
    let started = snapshot.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    vec![
        family(
            "kvs_user_connections",
            "Applications that a user has connected, and connections on their way to be one. Of the 100 users with \
             the most bytes.",
            now,
            by_user(|user| user.connections as f64),
        ),
        family(
            "kvs_user_pairs",
            "Pairs whose value a user has stored.",
            now,
            by_user(|user| user.pairs as f64),
        ),
        family(
            "kvs_user_bytes",
            "Bytes that a user is charged with: keys and values of its pairs, watches, changes that wait to be \
             told, messages that come and answers that are not taken.",
            now,
            by_user(|user| user.bytes as f64),
        ),
        one(
            "kvs_user_limit_connections",
            "Applications that one user may have connected.",
            now,
            limits.connections as f64,
        ),
        one("kvs_user_limit_pairs", "Pairs that one user may have.", now, limits.pairs as f64),
        one("kvs_user_limit_bytes", "Bytes that one user may have.", now, limits.bytes as f64),
        one(
            "kvs_value_limit_bytes",
            "The longest value in bytes.",
            now,
            snapshot.about.max_value as f64,
        ),
        one(
            "kvs_auth_up",
            "Whether the authentication server has answered when it was asked last.",
            now,
            f64::from(u8::from(totals.auth_is_up)),
        ),
        one(
            "kvs_auth_retries_total",
            "Questions to the authentication server that were repeated, as an answer was overdue.",
            up,
            totals.auth_retries as f64,
        ),
        one(
            "kvs_auth_reconnects_total",
            "Times that the link to the authentication server was set up again.",
            up,
            totals.auth_reconnects as f64,
        ),
        one(
            "kvs_auth_reconnect_failures_total",
            "Times that it could not be.",
            up,
            totals.auth_failures as f64,
        ),
        one(
            "process_start_time_seconds",
            "Start time of the server, in seconds since 1970.",
            now,
            started.as_secs_f64(),
        ),
        family(
            "kvs_build_info",
            "1, with the version of the server.",
            now,
            vec![gauge(1.0, &[("version", env!("CARGO_PKG_VERSION"))])],
        ),
    ]
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

/// A family with one metric, which has no labels.
fn one(name: &str, help: &str, kind: MetricType, value: f64) -> MetricFamily {
    let mut metric = Metric::default();
    match kind {
        MetricType::COUNTER => metric.set_counter(counter_of(value)),
        _ => metric.set_gauge(gauge_of(value)),
    }
    family(name, help, kind, vec![metric])
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

fn counter_of(value: f64) -> Counter {
    let mut counter = Counter::default();
    counter.set_value(value);
    counter
}

fn gauge_of(value: f64) -> Gauge {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    gauge
}

fn counter(value: u64, labels: &[(&str, &str)]) -> Metric {
    let mut metric = labelled(labels);
    metric.set_counter(counter_of(value as f64));
    metric
}

fn gauge(value: f64, labels: &[(&str, &str)]) -> Metric {
    let mut metric = labelled(labels);
    metric.set_gauge(gauge_of(value));
    metric
}

/// `buckets`: how many are in each, the last without an upper bound.
fn histogram(buckets: &[u64], sum: f64, labels: &[(&str, &str)]) -> Metric {
    let mut count = 0;
    let cumulative = BUCKETS.iter().zip(buckets).map(|(bound, in_it)| {
        count += in_it;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / 1e9);
        bucket.set_cumulative_count(count);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(cumulative.collect());
    histogram.set_sample_count(buckets.iter().sum());
    histogram.set_sample_sum(sum);
    let mut metric = labelled(labels);
    metric.set_histogram(histogram);
    metric
}
