//! redis-rs with its defaults, and r2d2 as its pool. What each step does and prints:
//! tests/conformance/clients/foreign/steps.py.

use std::collections::HashMap;
use std::env::var;
use std::io::stdin;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use redis::streams::{
    StreamAutoClaimOptions, StreamAutoClaimReply, StreamId, StreamInfoConsumersReply, StreamInfoGroupsReply,
    StreamInfoStreamReply, StreamPendingCountReply, StreamPendingReply, StreamRangeReply, StreamReadOptions,
    StreamReadReply,
};
use redis::{Client, Commands, Connection, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use redis::{RedisResult, cmd, pipe};
use serde_json::{Value, json};

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

type Shown = Result<Value, Box<dyn std::error::Error>>;
type Pooled = r2d2::PooledConnection<Client>;

static QUEUE: LazyLock<String> = LazyLock::new(|| var("PBUS_QUEUE").unwrap());
static SHARED: LazyLock<r2d2::Pool<Client>> = LazyLock::new(|| r2d2::Pool::new(client("PBUS_PORT", "", "")).unwrap());

fn client(port: &str, user: &str, password: &str) -> Client {
    let address = ConnectionAddr::Tcp(var("PBUS_HOST").unwrap(), var(port).unwrap().parse().unwrap());
    let mut settings = RedisConnectionInfo::default();
    if !user.is_empty() {
        settings = settings.set_username(user);
    }
    if !password.is_empty() {
        settings = settings.set_password(password);
    }
    let place: ConnectionInfo = address.into_connection_info().unwrap();
    Client::open(place.set_redis_settings(settings)).unwrap()
}

fn named(ending: &str) -> String {
    format!("{}{ending}", *QUEUE)
}

fn shared() -> Result<Pooled, r2d2::Error> {
    SHARED.get()
}

/// What a user sees of a push: its reply, or the error.
fn outcome<T: Into<Value>>(done: RedisResult<T>) -> Value {
    match done {
        Ok(reply) => reply.into(),
        Err(error) => json!({"class": format!("ErrorKind::{:?}", error.kind()), "text": error.to_string()}),
    }
}

/// The same where the reply is of no interest.
fn refusal<T>(done: RedisResult<T>) -> Value {
    outcome(done.map(|_| Value::Null))
}

fn ask(what: &str) {
    println!("{}", json!({"ask": what}));
    stdin().read_line(&mut String::new()).unwrap();
}

fn step(name: &str, act: impl FnOnce() -> Shown) {
    match act() {
        Ok(got) => println!("{}", json!({"step": name, "got": got})),
        Err(error) => println!("{}", json!({"step": name, "failed": format!("{error:?}")})),
    }
}

fn main() {
    let mut puller = client("PBUS_PORT", "", "").get_connection().unwrap();
    let mut pulled = Vec::new();
    step("connect", connect);
    step("push", push);
    step("push-typed", push_typed);
    step("pipeline", pipeline);
    step("transaction", transaction);
    step("pool", pool);
    step("authenticate", authenticate);
    step("pull", || pull(&mut puller, &mut pulled));
    step("look", look);
    step("ack-elsewhere", || ack_elsewhere(&mut puller, &pulled));
    step("nack", || nack(&mut puller));
    step("blocking-pop", || blocking_pop(&mut puller));
    step("errors", errors);
    step("unanswered", unanswered);
    step("reconnect", reconnect);
}

fn connect() -> Shown {
    let mut bus = shared()?;
    let pong: String = bus.ping()?;
    let info: String = cmd("CLIENT").arg("INFO").query(&mut bus)?;
    Ok(json!({"version": "1.8.1", "ping": pong, "info": info}))
}

fn push() -> Shown {
    let mut bodies: Vec<Vec<u8>> = (0..97).map(|number| format!("push {number}").into_bytes()).collect();
    bodies.extend([vec![], "花椒 ñ".into(), b"\x00\xff\r\n".to_vec()]);
    let reply: i64 = shared()?.lpush(named(".bulk"), bodies)?;
    Ok(json!({"reply": reply}))
}

fn push_typed() -> Shown {
    let (mut bus, order) = (shared()?, named(" order 4711"));
    let typed = [
        ("body", "typed"), ("dedupe", &order), ("delay", "1"), ("ttl", "60000"), ("key", "k"), ("traceparent", TRACEPARENT),
    ];
    let mut add = |fields: &[(&str, &str)]| bus.xadd(named(".bulk"), "*", fields);
    let ids: [Option<String>; 2] = [add(&typed)?, add(&typed)?];
    Ok(json!({"ids": ids, "plain": add(&[("body", "plain")])?}))
}

fn pipeline() -> Shown {
    let (mut bus, bulk) = (shared()?, named(".bulk"));
    let mut many = pipe();
    for number in 0..100 {
        many.lpush(&bulk, format!("pipe {number}"));
    }
    let replies: Vec<i64> = many.llen(&bulk).query(&mut bus)?;
    let mut mixed = pipe();
    mixed.lpush(&bulk, "good 0").lpush("nope", "bad").lpush(&bulk, "good 1");
    Ok(json!({"replies": replies, "refused": refusal(mixed.query::<Vec<i64>>(&mut bus))}))
}

fn transaction() -> Shown {
    let (mut bus, bulk) = (shared()?, named(".bulk"));
    let mut whole = pipe();
    whole.atomic().lpush(&bulk, "both 0").lpush(&bulk, "both 1").llen(&bulk);
    let replies: [i64; 3] = whole.query(&mut bus)?;
    let mut never = |other: &str| {
        let mut none = pipe();
        none.atomic().lpush(&bulk, "never").lpush(other, "never");
        refusal(none.query::<Vec<i64>>(&mut bus))
    };
    let (discarded, refused) = (never("nope"), never("full"));
    let note = "refused: `UnexpectedReturnType`";
    Ok(json!({"replies": replies, "discarded": discarded, "refused": refused, "note": note}))
}

fn pool() -> Shown {
    let (mixed_up, pushed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for worker in 0..8 {
            let (mixed_up, pushed) = (&mixed_up, &pushed);
            scope.spawn(move || {
                for turn in 0..25 {
                    let text = format!("pool {worker} {turn}");
                    let echoed: RedisResult<String> = cmd("ECHO").arg(&text).query(&mut shared().unwrap());
                    mixed_up.fetch_add(usize::from(echoed.ok().as_ref() != Some(&text)), Relaxed);
                    let reply: RedisResult<i64> = shared().unwrap().lpush(named(".bulk"), text);
                    pushed.fetch_add(usize::from(reply.is_ok()), Relaxed);
                }
            });
        }
    });
    Ok(json!({"mixed_up": mixed_up, "pushed": pushed, "note": "r2d2"}))
}

fn authenticate() -> Shown {
    let (safe, topic) = (named(".safe"), named(".safe/t"));
    let user: i64 = client("PBUS_PORT", &safe, "pw").get_connection()?.lpush(&safe, "safe 0")?;
    let alone = format!("{safe}:pw");
    let password: i64 = client("PBUS_PORT", "", &alone).get_connection()?.lpush(&safe, "safe 1")?;
    let popped: String = client("PBUS_PORT", &topic, "tpw").get_connection()?.rpop(&topic, None)?;
    Ok(json!({"user": user, "password": password, "topic": popped}))
}

fn reading() -> StreamReadOptions {
    StreamReadOptions::default().group("t", "me")
}

/// One XREADGROUP of the own queue.
fn read(bus: &mut Connection, from: &str, options: &StreamReadOptions) -> RedisResult<Vec<StreamId>> {
    let reply: Option<StreamReadReply> = bus.xread_options(&[QUEUE.as_str()], &[from], options)?;
    Ok(reply.and_then(|mut reply| reply.keys.pop()).map(|stream| stream.ids).unwrap_or_default())
}

fn entries(got: &[StreamId], pulled: &mut Vec<String>) -> Value {
    let shown = got.iter().map(|entry| {
        pulled.push(entry.id.clone());
        let text = |name| entry.get::<String>(name);
        json!({
            "id": entry.id, "body": text("body"), "attempt": text("attempt"), "redelivered": text("redelivered"),
            "traceparent": text("traceparent"),
        })
    });
    shown.collect()
}

fn pull(puller: &mut Connection, pulled: &mut Vec<String>) -> Shown {
    let mut bus = shared()?;
    let _: i64 = bus.lpush(&*QUEUE, &["pull 0", "pull 1", "pull 2", "pull 3"])?;
    let _: String = bus.xadd(&*QUEUE, "*", &[("body", "pull 4"), ("traceparent", TRACEPARENT)])?;
    let first = entries(&read(puller, ">", &reading().count(3).block(2000))?, pulled);
    let rest = entries(&read(puller, ">", &reading())?, pulled);
    let nothing = read(puller, ">", &reading())?.len();
    let waited = read(puller, ">", &reading().block(50))?.len();
    let open = read(puller, "0", &reading())?.len();
    Ok(json!({"first": first, "rest": rest, "nothing": nothing, "waited": waited, "open": open}))
}

fn look() -> Shown {
    let mut bus = shared()?;
    let pending: StreamPendingReply = bus.xpending(&*QUEUE, "t")?;
    let listed: StreamPendingCountReply = bus.xpending_count(&*QUEUE, "t", "-", "+", 10)?;
    let groups: StreamInfoGroupsReply = bus.xinfo_groups(&*QUEUE)?;
    let consumers: StreamInfoConsumersReply = bus.xinfo_consumers(&*QUEUE, "t")?;
    let stream: StreamInfoStreamReply = bus.xinfo_stream(&*QUEUE)?;
    let jobs: StreamRangeReply = bus.xrange_count(&*QUEUE, "-", "+", 100)?;
    let how = StreamAutoClaimOptions::default();
    let claimed: StreamAutoClaimReply = bus.xautoclaim_options(&*QUEUE, "t", "me", 0, "0-0", how)?;
    let never: String = bus.xadd(&*QUEUE, "*", &[("body", "never"), ("delay", "60000")])?;
    let cancelled: i64 = bus.xdel(&*QUEUE, &[never])?;
    Ok(json!({
        "pending": pending.count(), "ids": listed.ids.iter().map(|claim| &claim.id).collect::<Vec<_>>(),
        "consumer": listed.ids[0].consumer, "last": stream.last_entry.id, "claimed": claimed.claimed.len(),
        "groups": groups.groups.iter().map(|group| &group.name).collect::<Vec<_>>(),
        "consumers": consumers.consumers.iter().map(|consumer| &consumer.name).collect::<Vec<_>>(),
        "bodies": jobs.ids.iter().map(|job| job.get::<String>("body")).collect::<Vec<_>>(), "cancelled": cancelled,
    }))
}

fn ack_elsewhere(puller: &mut Connection, pulled: &[String]) -> Shown {
    let mut bus = shared()?;
    let acked: usize = bus.xack(&*QUEUE, "t", pulled)?;
    let again: usize = bus.xack(&*QUEUE, "t", pulled)?;
    Ok(json!({"acked": acked, "again": again, "open": read(puller, "0", &reading())?.len()}))
}

fn nack(puller: &mut Connection) -> Shown {
    let mut bus = shared()?;
    let _: i64 = bus.lpush(&*QUEUE, "nack")?;
    let id = read(puller, ">", &reading().block(5000))?[0].id.clone();
    let mut refuse = cmd("PBUS.NACK");
    refuse.arg(&*QUEUE).arg("t").arg(&id).arg("DELAY").arg(0).arg("REASON").arg("not today");
    let retried: i64 = refuse.query(&mut bus)?;
    let attempt = read(puller, ">", &reading().block(5000))?[0].get::<String>("attempt");
    let dead: i64 = cmd("PBUS.NACK").arg(&*QUEUE).arg("t").arg(&id).arg("DEAD").query(&mut bus)?;
    let numbers: HashMap<String, String> = bus.hgetall(named("/t"))?;
    Ok(json!({"retried": retried, "attempt": attempt, "dead": dead, "counted": numbers["dead"]}))
}

fn blocking_pop(puller: &mut Connection) -> Shown {
    let waker = thread::spawn(|| {
        thread::sleep(Duration::from_millis(200));
        let _: RedisResult<i64> = shared().unwrap().lpush(&*QUEUE, "wake");
    });
    let woken: Option<[String; 2]> = puller.brpop(named("/t"), 5.0)?;
    waker.join().unwrap();
    let nothing: Option<[String; 2]> = puller.brpop(named("/t"), 0.05)?;
    Ok(json!({"got": woken, "nothing": nothing.is_none()}))
}

fn taking(bus: &mut Connection, stream: &str, group: &str) -> Value {
    let options = StreamReadOptions::default().group(group, "me");
    refusal(bus.xread_options::<_, _, StreamReadReply>(&[stream], &[">"], &options))
}

fn errors() -> Shown {
    let (mut bus, safe) = (shared()?, named(".safe"));
    let mut known = client("PBUS_PORT", &safe, "pw").get_connection()?;
    let wrong = client("PBUS_PORT", &safe, "no").get_connection().and_then(|mut bus| bus.lpush::<_, _, i64>(&safe, "x"));
    let mut seen = json!({
        "NOAUTH": outcome(bus.lpush::<_, _, i64>(&safe, "x")),
        "WRONGPASS": outcome(wrong),
        "NOPERM": taking(&mut known, &safe, "t"),
        "NOQUEUE": outcome(bus.lpush::<_, _, i64>("nope", "x")),
        "NOTOPIC": taking(&mut bus, &QUEUE, "nope"),
        "QUEUEFULL": outcome(bus.lpush::<_, _, i64>("full", "x")),
        "TOOBIG": outcome(bus.lpush::<_, _, i64>(&*QUEUE, "x".repeat(1048577))),
        "BADVALUE": outcome(bus.xadd::<_, _, _, _, String>(&*QUEUE, "*", &[("body", "x"), ("delay", "-1")])),
        "BUSYGROUP": outcome(bus.xgroup_create::<_, _, _, String>(&*QUEUE, "t", "$")),
        "ERR": refusal(cmd("NOSUCH").query::<()>(&mut bus)),
    });
    ask("freeze");
    seen["MAYBESTORED"] = outcome(bus.lpush::<_, _, i64>("away", "x"));
    seen["UNAVAILABLE"] = outcome(bus.lpush::<_, _, i64>("away", "x"));
    ask("thaw");
    seen["after"] = bus.ping::<String>()?.into();
    Ok(seen)
}

fn unanswered() -> Shown {
    let cut = client("PBUS_CUT_PORT", "", "");
    let plain = cut.get_connection()?.lpush::<_, _, i64>(named(".cut"), format!("CUT:{}:plain", *QUEUE));
    let (body, dedupe) = (format!("CUT:{}:dedupe", *QUEUE), named(" cut"));
    let fields = [("body", &body), ("dedupe", &dedupe)];
    let keyed = cut.get_connection()?.xadd::<_, _, _, _, String>(named(".cut"), "*", &fields);
    Ok(json!({"plain": outcome(plain), "dedupe": outcome(keyed)}))
}

/// Pushes until it is stored; what each try came to.
fn until_stored() -> Vec<Value> {
    let mut tries = Vec::new();
    for _ in 0..300 {
        tries.push(match shared() {
            Ok(mut bus) => outcome(bus.lpush::<_, _, i64>(named(".cut"), "back")),
            Err(error) => json!({"class": "r2d2::Error", "text": error.to_string()}),
        });
        if tries.last().unwrap().is_i64() {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    tries
}

fn reconnect() -> Shown {
    let _: i64 = shared()?.lpush(named(".cut"), "before")?;
    ask("close");
    let closed = until_stored();
    ask("restart");
    Ok(json!({"closed": closed, "restarted": until_stored()}))
}
