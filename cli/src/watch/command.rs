//! The command `kvs watch`.

use crate::arguments::WatchArgs;
use crate::connector::GroupConnection;
use crate::error::Error;
use crate::json::JsonObject;
use crate::output::Output;
use crate::quoting::Quoted;
use crate::watch::event::KeyEvent;
use crate::watch::event_stream::EventStream;
use crate::watch::exec;
use crate::watch::filter::WatchFilter;

pub(crate) fn run(args: WatchArgs, group: &GroupConnection, output: Output) -> Result<(), Error> {
    let filter = WatchFilter::new(args.keys, args.prefixes);
    let mut events = EventStream::start(group, filter.clone())?;
    let report = |event: KeyEvent| match &args.exec {
        Some(command) => {
            if let Err(cause) = exec::run(command, &event, group) {
                let key = Quoted(&event.key);
                let message = format!("the command for the key {key} {cause}; the watch continues");
                output.warning("command_failed", &message);
            }
            Ok(())
        }
        None if output.is_json() => output.line(event.to_json()),
        None => output.line(event.text(usize::MAX)),
    };
    if !args.quiet {
        let object = || {
            let mut object = JsonObject::new();
            object.text("event", "watching");
            object.bytes("group", &group.group);
            object
        };
        let message = format!("watching {} in the group {}", filter.text(), Quoted(&group.group));
        output.event(object, message);
    }
    if args.initial {
        events.report_initial(report)?;
    }
    let mut remaining = args.count;
    while remaining != Some(0) {
        let Some(event) = events.next()? else { break };
        report(event)?;
        remaining = remaining.map(|count| count - 1);
    }
    Ok(())
}
