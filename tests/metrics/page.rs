//! The dashboard in a real browser. `target/dashboard` has screenshots for inspection.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kvs_testkit::{
    Browser, Driver, GROUP, LocalServer, RawV2App, Scheme, Sockets, StopOnDrop, TestEnv,
    private_dir, project_dir,
};

use crate::metrics_env;

const WIDE: (u32, u32) = (1280, 900);
const NARROW: (u32, u32) = (390, 844);

/// Opens the page of a server in a browser. Returns `None` without a browser.
fn open(env: &TestEnv) -> Option<Browser> {
    let browser = Browser::start()?;
    browser.emulate(Scheme::Light, WIDE.0, WIDE.1);
    browser.open(&env.metrics().url("/"));
    Some(browser)
}

/// Finds text whose contrast with its background is below 4.5 : 1 (WCAG 2, level AA), by the
/// computed styles.
const LOW_CONTRAST: &str = "
    const channels = (color) => color.match(/[\\d.]+/g).map(Number);
    const luminance = (color) => {
        const [r, g, b] = channels(color).slice(0, 3).map((value) => {
            const part = value / 255;
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const isOpaque = (color) => channels(color).length === 3;
    const behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const color = getComputedStyle(e).backgroundColor;
            if (isOpaque(color)) return color;
        }
        return 'rgb(255, 255, 255)';
    };
    const low = [];
    let looked = 0;
    const look = (element, color, what) => {
        const [one, other] = [luminance(color), luminance(behind(element))];
        const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        looked++;
        if (!(contrast >= 4.5)) low.push(`${what}: ${contrast.toFixed(2)}`);
    };
    for (const element of document.body.querySelectorAll('*')) {
        const style = getComputedStyle(element);
        if (!element.getClientRects().length || style.visibility !== 'visible') continue;
        const own = [...element.childNodes].filter((node) => node.nodeType === 3);
        const text = own.map((node) => node.data).join('').trim();
        if (text) look(element, element instanceof SVGElement ? style.fill : style.color, text);
        if (element.placeholder) {
            const style = getComputedStyle(element, '::placeholder');
            look(element, style.color, element.placeholder);
        }
    }
    return {looked, low};
";

fn expect_contrast(browser: &Browser, what: &str) {
    let found = browser.run(LOW_CONTRAST);
    assert!(found["looked"].as_u64().is_some_and(|count| count > 30), "{what}: {found}");
    assert_eq!(found["low"].as_array().map(Vec::len), Some(0), "{what}: {}", found["low"]);
}

/// Asserts that only scroll containers are wider than the window.
fn expect_no_overflow(browser: &Browser, what: &str) {
    let found = browser.run(
        "const width = document.documentElement.clientWidth;
         const scrolls = (e) => e.closest('.scroll, .hidden, .skip');
         const wide = [...document.body.querySelectorAll('*')].filter((e) =>
             !scrolls(e) && e.getClientRects().length &&
             e.getBoundingClientRect().right > width + 0.5);
         return {width, scroll: document.documentElement.scrollWidth,
                 wide: wide.map((e) => e.outerHTML.slice(0, 100))};",
    );
    assert_eq!(found["scroll"], found["width"], "{what}: {found}");
    assert_eq!(found["wide"].as_array().map(Vec::len), Some(0), "{what}: {found}");
}

/// Keeps two applications at work while `act` runs.
fn while_applications_work<T>(env: &TestEnv, act: impl FnOnce() -> T) -> T {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop_on_drop = StopOnDrop(&ended);
        for number in 0..2 {
            let (app, ended) = (env.connect(), &ended);
            app.watch_prefix("temperature", |_| {}).expect("it may");
            scope.spawn(move || {
                for n in (0..).take_while(|_| !ended.load(Ordering::Relaxed)) {
                    let key = format!("temperature-{}", n % 500);
                    match n % 6 {
                        0 => drop(app.put(&key, format!("{number}.{n}")).expect("there is room")),
                        1 if n % 30 == 1 => drop(app.delete(&key).expect("it is served")),
                        _ => drop(app.get(&key).expect("it is served")),
                    }
                    // A moderate load, as the browser needs processor time, too.
                    thread::sleep(std::time::Duration::from_micros(300));
                }
            });
        }
        act()
    })
}

#[test]
fn page_shows_activity_in_both_schemes_and_on_a_phone() {
    let env = metrics_env();
    let Some(browser) = open(&env) else { return };
    let app = Driver::connected(&env.server, GROUP, env.secret());
    app.store("k", "v");
    assert_eq!(app.call("register_callback k"), 1);
    for group in ["weather", "sensors/hall-3"] {
        env.server.create_group(group);
    }
    while_applications_work(&env, || {
        let pid = app.pid();
        browser.wait_for(&format!(
            "[...document.querySelectorAll('#applications tbody tr')].some((row) =>
                row.cells[0].textContent === '{GROUP}' && row.cells[1].textContent === '{pid}' &&
                row.cells[2].textContent === 'Connected' && row.cells[4].textContent === '1')"
        ));
        browser.wait_for(&format!(
            "[...document.querySelectorAll('#groups tbody tr')].some((row) =>
                row.cells[0].textContent === '{GROUP}' && row.cells[1].textContent === '3')"
        ));
        for tile in ["operations", "p50", "p99", "callbacks", "applications", "pairs", "bytes"] {
            browser.wait_for(&format!(
                "parseFloat(document.querySelector('#tile-{tile} .value').textContent) > 0"
            ));
        }
        // Lines of several points: get and put, and all quantiles.
        for series in ["get", "put", "p50", "p90", "p99"] {
            browser.wait_for(&format!(
                "document.querySelector('[data-series={series}]').getAttribute('d')
                 .split('L').length > 7"
            ));
        }
        let socket = browser.run("return document.getElementById('socket').textContent");
        assert_eq!(socket, env.server.socket().to_string_lossy().as_ref());
        assert_eq!(browser.run("return document.getElementById('auth-state').textContent"), "up");

        let dir: PathBuf = project_dir().join("target/dashboard");
        std::fs::create_dir_all(&dir).expect("target can be written");
        for (scheme, name) in [(Scheme::Light, "light"), (Scheme::Dark, "dark")] {
            for ((width, height), size) in [(WIDE, "wide"), (NARROW, "narrow")] {
                let what = format!("{name}-{size}");
                browser.emulate(scheme, width, height);
                // The plots follow.
                browser.wait_for(
                    "[...document.querySelectorAll('.plot svg')].every((svg) =>
                        svg.viewBox.baseVal.width === svg.clientWidth)",
                );
                browser.screenshot(&dir.join(format!("{what}.png")));
                expect_no_overflow(&browser, &what);
                expect_contrast(&browser, &what);
            }
        }
    });
    assert_eq!(browser.console(), [""; 0], "errors on the console");
}

#[test]
fn page_without_groups_says_what_to_do() {
    let env = metrics_env();
    env.server.delete_group(GROUP);
    let Some(browser) = open(&env) else { return };
    browser.wait_for("document.getElementById('no-groups').checkVisibility()");
    assert_eq!(browser.run("return document.getElementById('groups').checkVisibility()"), false);
    for scheme in [Scheme::Light, Scheme::Dark] {
        browser.emulate(scheme, NARROW.0, NARROW.1);
        expect_contrast(&browser, "no groups");
        expect_no_overflow(&browser, "no groups");
    }
    env.server.create_group("weather");
    browser.wait_for(
        "document.querySelector('#groups tbody th').textContent === 'weather' &&
         !document.getElementById('no-groups').checkVisibility()",
    );
    assert_eq!(browser.console(), [""; 0], "errors on the console");
}

#[test]
fn group_names_are_escaped() {
    let env = metrics_env();
    let names = [
        "<script>document.title='hit'</script>",
        "<img src=x onerror=\"document.title='hit'\">",
        "\"><svg onload=document.title='hit'>",
        "</td></table><h1>hit</h1>",
        "javascript:document.title='hit'",
        "__proto__",
        "\u{202e}right to left",
    ];
    let mut apps = Vec::new();
    let dir = private_dir();
    for (n, name) in names.iter().enumerate() {
        let secret = env.server.create_group(name);
        apps.push(RawV2App::login_as(&env.server, dir.path(), &n.to_string(), name, &secret));
    }
    let Some(browser) = open(&env) else { return };
    let all = serde_json::json!(names);
    for table in ["groups", "applications"] {
        browser.wait_for(&format!(
            "{all}.every((name) =>
             [...document.querySelectorAll('#{table} tbody th')].some((cell) =>
                cell.textContent === name && cell.querySelectorAll('*').length === 1))"
        ));
    }
    // After another update, every injected script would have run.
    browser.wait_for("document.title.includes('/s')");
    assert_eq!(browser.run("return document.querySelectorAll('h1, script').length"), 2);
    assert_eq!(browser.console(), [""; 0], "errors on the console");
    browser.emulate(Scheme::Light, NARROW.0, NARROW.1);
    expect_no_overflow(&browser, "long names");
}

#[test]
fn applications_are_filtered_sorted_and_paged() {
    const MANY: usize = 250;
    let env = metrics_env();
    let Some(browser) = open(&env) else { return };
    let dir = private_dir();
    let own = Driver::connected(&env.server, GROUP, env.secret());
    let login =
        |n: usize| RawV2App::login_as(&env.server, dir.path(), &n.to_string(), GROUP, env.secret());
    let _apps: Vec<RawV2App> = (0..MANY).map(login).collect();
    let rows = "document.querySelectorAll('#applications tbody tr').length";
    browser.wait_for(&format!(
        "{rows} === 100 &&
         document.querySelector('#applications-more').textContent.includes('151 more')"
    ));
    browser.run("document.querySelector('#applications-more button').click()");
    browser.wait_for(&format!("{rows} === {}", MANY + 1));
    // Filters by the number of one application, and by words that all applications have.
    let filter = |text: &str| {
        browser.run(&format!(
            "const input = document.getElementById('filter');
             input.value = '{text}';
             input.dispatchEvent(new Event('input'));"
        ));
    };
    filter(&format!("{GROUP} {}", own.pid()));
    assert_eq!(browser.run(&format!("return {rows}")), 1);
    filter("no such thing");
    assert_eq!(browser.run(&format!("return {rows}")), 0);
    assert_eq!(
        browser.run("return document.getElementById('no-applications').checkVisibility()"),
        true
    );
    filter("CONNECTED framed");
    assert_eq!(browser.run(&format!("return {rows}")), MANY + 1);
    filter("");

    assert_eq!(own.put("k", "v"), 1);
    assert_eq!(own.call("register_callback k"), 1);
    let head = "document.querySelector('#applications [data-key=watches]')";
    browser.run(&format!("{head}.querySelector('button').click()"));
    assert_eq!(browser.run(&format!("return {head}.getAttribute('aria-sort')")), "descending");
    browser.wait_for(&format!(
        "document.querySelector('#applications tbody tr').cells[1].textContent === '{}'",
        own.pid()
    ));
    browser.run(&format!("{head}.querySelector('button').click()"));
    assert_eq!(browser.run(&format!("return {head}.getAttribute('aria-sort')")), "ascending");
    assert_eq!(
        browser.run(
            "return [...document.querySelectorAll('#applications tbody tr')].at(-1)
                 .cells[1].textContent"
        ),
        own.pid().to_string()
    );
    assert_eq!(browser.console(), [""; 0], "errors on the console");
}

#[test]
fn page_reports_loss_and_return_of_the_server() {
    let env = metrics_env();
    let Some(browser) = open(&env) else { return };
    browser.wait_for("document.querySelector('#groups tbody th').textContent === 'g'");
    assert_eq!(browser.run("return document.getElementById('banner').checkVisibility()"), false);
    env.server.kill();
    let said = browser.wait_for(
        "document.getElementById('banner').checkVisibility() &&
         document.getElementById('banner').textContent",
    );
    assert!(said.as_str().is_some_and(|said| said.contains("has not answered")), "{said}");
    assert_eq!(browser.run("return document.getElementById('banner').role"), "alert");
    for scheme in [Scheme::Light, Scheme::Dark] {
        for (width, height) in [WIDE, NARROW] {
            browser.emulate(scheme, width, height);
            expect_contrast(&browser, "banner");
            expect_no_overflow(&browser, "banner");
        }
    }
    // Another server at the same address, without the group.
    let address = env.metrics().address().to_string();
    let other = LocalServer::builder(env.auth.addr()).args(["--metrics", &address]).start();
    other.create_group("new");
    browser.wait_for(
        "!document.getElementById('banner').checkVisibility() &&
         document.querySelector('#groups tbody th').textContent === 'new'",
    );
}

#[test]
fn paused_page_does_not_change_until_resumed() {
    let env = metrics_env();
    let Some(browser) = open(&env) else { return };
    let name = "document.querySelector('#groups tbody th').textContent";
    browser.wait_for(&format!("{name} === 'g'"));
    let press = "const button = document.getElementById('pause');
                 button.click();
                 return [button.getAttribute('aria-pressed'), button.textContent]";
    assert_eq!(browser.run(press), serde_json::json!(["true", "Resume"]));
    env.server.create_group("a");
    // The promise is that no request follows, so the test waits longer than the refresh interval.
    thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(browser.run(&format!("return {name}")), "g");
    assert_eq!(browser.run(press), serde_json::json!(["false", "Pause"]));
    browser.wait_for(&format!("{name} === 'a'"));
    assert_eq!(browser.console(), [""; 0], "errors on the console");
}
