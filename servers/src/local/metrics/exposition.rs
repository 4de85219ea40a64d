//! A snapshot in the text format of Prometheus.
//!
//! Metric names and label values are part of the interface and do not change. A deleted group is
//! absent from the next snapshot. Counters start at 0 with the server and never decrease.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Registry, TextEncoder};

use super::labels::{ENDS, LOGINS, OPERATIONS, RESULTS, is_possible};
use super::recorder::BUCKETS;
use super::snapshot::{GroupDetails, Snapshot};
use crate::local::limits::quota::UserUsage;

/// The content type of the text.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Formats a snapshot.
///
/// # Errors
/// None in practice: the names are constants.
pub(super) fn text(snapshot: &Arc<Snapshot>) -> prometheus::Result<String> {
    let registry = Registry::new();
    registry.register(Box::new(Exposition(Arc::clone(snapshot))))?;
    TextEncoder::new().encode_to_string(&registry.gather())
}

struct Exposition(Arc<Snapshot>);

impl Collector for Exposition {
    /// No other collector is registered, so there is nothing to check for conflicts.
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = operation_families(&self.0);
        families.extend(group_families(&self.0));
        families.extend(server_families(&self.0));
        families
    }
}

fn operation_families(snapshot: &Snapshot) -> Vec<MetricFamily> {
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
            "Time from reading a request until its response is passed to the kernel, or queued if \
             the application does not read it. Requests of one read start together; responses of \
             one write end together. A put in protocol v1 has no response: its time ends when it \
             is stored.",
            MetricType::HISTOGRAM,
            latencies,
        ),
        family(
            "kvs_logins_total",
            "Logins by result: ok, or why no session was established. limit: the user or process \
             has too many connections.",
            MetricType::COUNTER,
            by("result", &LOGINS, &totals.logins),
        ),
        family(
            "kvs_sessions_ended_total",
            "Sessions that were closed after their login, by reason.",
            MetricType::COUNTER,
            by("reason", &ENDS, &totals.ends),
        ),
        one(
            "kvs_changes_noted_total",
            "Change events enqueued for subscribers, one for each subscriber.",
            MetricType::COUNTER,
            totals.events_enqueued as f64,
        ),
        one(
            "kvs_callbacks_merged_total",
            "Change events that were coalesced with a pending event of the same key.",
            MetricType::COUNTER,
            totals.events_coalesced as f64,
        ),
        one(
            "kvs_callbacks_sent_total",
            "Change events sent to applications.",
            MetricType::COUNTER,
            totals.events_sent as f64,
        ),
    ]
}

fn group_families(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let (groups, total) = (&snapshot.groups, &snapshot.total);
    let each = |value: fn(&GroupDetails) -> f64| -> Vec<Metric> {
        groups.iter().map(|group| gauge(value(group), &[("group", &group.label)])).collect()
    };
    let applications = groups.iter().flat_map(|group| {
        let session =
            |name, count| gauge(count as f64, &[("group", &group.label), ("session", name)]);
        [session("framed", group.stats.v2), session("original", group.stats.v1)]
    });
    vec![
        one(
            "kvs_groups",
            "Groups. The 1000 oldest have metrics of their own.",
            MetricType::GAUGE,
            (groups.len() + snapshot.groups_left_out) as f64,
        ),
        one("kvs_pairs", "Key-value pairs of all groups.", MetricType::GAUGE, total.pairs as f64),
        one(
            "kvs_pairs_bytes",
            "Bytes of the keys and values of all groups.",
            MetricType::GAUGE,
            total.bytes as f64,
        ),
        family(
            "kvs_group_applications",
            "Connected applications by group and protocol: framed is v2, original is v1.",
            MetricType::GAUGE,
            applications.collect(),
        ),
        family(
            "kvs_group_pairs",
            "Key-value pairs by group.",
            MetricType::GAUGE,
            each(|group| group.stats.pairs as f64),
        ),
        family(
            "kvs_group_bytes",
            "Bytes of keys and values by group.",
            MetricType::GAUGE,
            each(|group| group.stats.bytes as f64),
        ),
        family(
            "kvs_applications",
            "Connected applications by protocol: framed is v2, original is v1.",
            MetricType::GAUGE,
            vec![
                gauge(total.v2 as f64, &[("session", "framed")]),
                gauge(total.v1 as f64, &[("session", "original")]),
            ],
        ),
    ]
}

fn server_families(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let (totals, limits) = (&snapshot.totals, &snapshot.limits);
    let by_user = |value: fn(&UserUsage) -> f64| -> Vec<Metric> {
        let each = snapshot.users.iter();
        each.map(|user| gauge(value(user), &[("uid", &user.uid.to_string())])).collect()
    };
    let (counter, gauge_type) = (MetricType::COUNTER, MetricType::GAUGE);
    let started = snapshot.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    vec![
        family(
            "kvs_user_connections",
            "Connections of a user, including those that are logging in. For the 100 users with \
             the most bytes.",
            gauge_type,
            by_user(|user| user.connections as f64),
        ),
        family(
            "kvs_user_pairs",
            "Pairs whose value a user has stored.",
            gauge_type,
            by_user(|user| user.pairs as f64),
        ),
        family(
            "kvs_user_bytes",
            "Bytes charged to a user: keys and values of its pairs, subscriptions, pending change \
             events, and buffered requests and responses.",
            gauge_type,
            by_user(|user| user.bytes as f64),
        ),
        one(
            "kvs_user_limit_connections",
            "Applications that one user may have connected.",
            gauge_type,
            limits.connections as f64,
        ),
        one(
            "kvs_user_limit_pairs",
            "Pairs that one user may have stored.",
            gauge_type,
            limits.pairs as f64,
        ),
        one(
            "kvs_user_limit_bytes",
            "Bytes that one user may be charged.",
            gauge_type,
            limits.bytes as f64,
        ),
        one(
            "kvs_value_limit_bytes",
            "The longest value in bytes.",
            gauge_type,
            snapshot.info.max_value as f64,
        ),
        one(
            "kvs_auth_up",
            "1 if the authentication server answered the last request, else 0.",
            gauge_type,
            f64::from(u8::from(totals.link_is_up)),
        ),
        one(
            "kvs_auth_retries_total",
            "Requests to the authentication server that were repeated because a response was \
             overdue.",
            counter,
            totals.link_retries as f64,
        ),
        one(
            "kvs_auth_reconnects_total",
            "Successful reconnections to the authentication server.",
            counter,
            totals.link_reconnects as f64,
        ),
        one(
            "kvs_auth_reconnect_failures_total",
            "Failed attempts to reconnect to the authentication server.",
            counter,
            totals.link_failures as f64,
        ),
        one(
            "process_start_time_seconds",
            "Start time of the server, in seconds since 1970.",
            gauge_type,
            started.as_secs_f64(),
        ),
        family(
            "kvs_build_info",
            "1, with the version of the server.",
            gauge_type,
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

/// A histogram with the number of operations in each bucket; the last bucket has no upper bound.
fn histogram(buckets: &[u64], sum: f64, labels: &[(&str, &str)]) -> Metric {
    let mut count = 0;
    let cumulative = BUCKETS.iter().zip(buckets).map(|(bound, operations)| {
        count += operations;
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
