import com.google.gson.Gson;
import com.google.gson.GsonBuilder;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Function;

/** What the programs of both Java clients share. What each step does and prints: foreign/steps.py beside this folder. */
abstract class Steps {
    static final String HOST = System.getenv("PBUS_HOST");
    static final int PORT = Integer.parseInt(System.getenv("PBUS_PORT"));
    static final int CUT_PORT = Integer.parseInt(System.getenv("PBUS_CUT_PORT"));
    static final String QUEUE = System.getenv("PBUS_QUEUE");
    static final String BULK = QUEUE + ".bulk", CUT = QUEUE + ".cut", SAFE = QUEUE + ".safe";
    static final String TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    private static final Gson JSON = new GsonBuilder().serializeNulls().create();
    private final BufferedReader answers = new BufferedReader(new InputStreamReader(System.in));
    final List<String> pulled = new ArrayList<>();

    abstract Map<String, Object> connect() throws Exception;
    abstract Object push(List<byte[]> bodies) throws Exception;
    abstract String add(String queue, Map<String, String> fields);
    abstract long lpush(String queue, String... bodies);
    abstract Map<String, Object> pipeline() throws Exception;
    abstract Map<String, Object> transaction() throws Exception;
    abstract String echo(String text);
    /** What the workers share, where it is not a pool. */
    abstract String shares();
    abstract Map<String, Object> authenticate();
    abstract List<Map<String, String>> read(String from, Integer count, Integer blockMs);
    abstract Map<String, Object> look();
    abstract long ack(List<String> ids);
    abstract long command(String... words);
    abstract String dead();
    abstract Map<String, Object> blockingPop() throws Exception;
    abstract Map<String, Object> refusals();
    abstract String ping();
    abstract Map<String, Object> unanswered();

    void run() {
        step("connect", this::connect);
        step("push", () -> map("reply", push(pushed())));
        step("push-typed", this::pushTyped);
        step("pipeline", this::pipeline);
        step("transaction", this::transaction);
        step("pool", this::pool);
        step("authenticate", this::authenticate);
        step("pull", this::pull);
        step("look", this::look);
        step("ack-elsewhere", () -> map("acked", ack(pulled), "again", ack(pulled), "open", read("0", null, null).size()));
        step("nack", this::nack);
        step("blocking-pop", this::blockingPop);
        step("errors", this::errors);
        step("unanswered", this::unanswered);
        step("reconnect", this::reconnect);
    }

    static void say(Map<String, Object> message) {
        byte[] line = (JSON.toJson(message) + "\n").getBytes(StandardCharsets.UTF_8);
        System.out.write(line, 0, line.length);
        System.out.flush();
    }

    void ask(String what) throws Exception {
        say(map("ask", what));
        answers.readLine();
    }

    private static void step(String name, Callable<Map<String, Object>> act) {
        try {
            say(map("step", name, "got", act.call()));
        } catch (Exception error) {
            say(map("step", name, "failed", error + " caused by " + error.getCause()));
        }
    }

    /** Names and values in turn. */
    static <V> Map<String, V> map(Object... words) {
        Map<String, V> map = new LinkedHashMap<>();
        for (int place = 0; place < words.length; place += 2) {
            @SuppressWarnings("unchecked") V value = (V) words[place + 1];
            map.put((String) words[place], value);
        }
        return map;
    }

    /** What a user sees of a push: its reply, or the exception. */
    static Object outcome(Callable<?> act) {
        try {
            return act.call();
        } catch (Exception error) {
            return shown(error);
        }
    }

    static Map<String, Object> shown(Throwable error) {
        Throwable cause = error.getCause();
        String text = error.getMessage() + (cause == null ? "" : ", caused by " + cause.getMessage());
        return map("class", error.getClass().getSimpleName(), "text", text);
    }

    private static List<byte[]> pushed() {
        List<byte[]> bodies = new ArrayList<>();
        for (int number = 0; number < 97; number++) {
            bodies.add(("push " + number).getBytes(StandardCharsets.UTF_8));
        }
        bodies.add(new byte[0]);
        bodies.add("花椒 ñ".getBytes(StandardCharsets.UTF_8));
        bodies.add(new byte[] {0, (byte) 0xff, '\r', '\n'});
        return bodies;
    }

    private Map<String, Object> pushTyped() {
        Map<String, String> typed = map(
            "body", "typed", "dedupe", QUEUE + " order 4711", "delay", "1", "ttl", "60000", "key", "k",
            "traceparent", TRACEPARENT);
        return map("ids", List.of(add(BULK, typed), add(BULK, typed)), "plain", add(BULK, map("body", "plain")));
    }

    private Map<String, Object> pool() throws Exception {
        AtomicInteger mixedUp = new AtomicInteger(), pushed = new AtomicInteger();
        List<Thread> workers = new ArrayList<>();
        for (int number = 0; number < 8; number++) {
            int worker = number;
            workers.add(new Thread(() -> {
                for (int turn = 0; turn < 25; turn++) {
                    String text = "pool " + worker + " " + turn;
                    mixedUp.addAndGet(text.equals(echo(text)) ? 0 : 1);
                    pushed.addAndGet(lpush(BULK, text) > 0 ? 1 : 0);
                }
            }));
        }
        workers.forEach(Thread::start);
        for (Thread worker : workers) {
            worker.join();
        }
        return map("mixed_up", mixedUp.get(), "pushed", pushed.get(), "note", shares());
    }

    private List<Map<String, String>> taken(List<Map<String, String>> entries) {
        entries.forEach(entry -> pulled.add(entry.get("id")));
        return entries;
    }

    private Map<String, Object> pull() {
        lpush(QUEUE, "pull 0", "pull 1", "pull 2", "pull 3");
        add(QUEUE, map("body", "pull 4", "traceparent", TRACEPARENT));
        return map(
            "first", taken(read(">", 3, 2000)), "rest", taken(read(">", null, null)),
            "nothing", read(">", null, null).size(), "waited", read(">", null, 50).size(),
            "open", read("0", null, null).size());
    }

    private Map<String, Object> nack() {
        lpush(QUEUE, "nack");
        String id = read(">", null, 5000).get(0).get("id");
        long retried = command("PBUS.NACK", QUEUE, "t", id, "DELAY", "0", "REASON", "not today");
        String attempt = read(">", null, 5000).get(0).get("attempt");
        long gone = command("PBUS.NACK", QUEUE, "t", id, "DEAD");
        return map("retried", retried, "attempt", attempt, "dead", gone, "counted", dead());
    }

    private Map<String, Object> errors() throws Exception {
        Map<String, Object> seen = refusals();
        seen.put("NOAUTH", outcome(() -> lpush(SAFE, "x")));
        seen.put("NOQUEUE", outcome(() -> lpush("nope", "x")));
        seen.put("QUEUEFULL", outcome(() -> lpush("full", "x")));
        seen.put("TOOBIG", outcome(() -> lpush(QUEUE, "x".repeat(1048577))));
        seen.put("BADVALUE", outcome(() -> add(QUEUE, map("body", "x", "delay", "-1"))));
        seen.put("ERR", outcome(() -> command("NOSUCH")));
        ask("freeze");
        seen.put("MAYBESTORED", outcome(() -> lpush("away", "x")));
        seen.put("UNAVAILABLE", outcome(() -> lpush("away", "x")));
        ask("thaw");
        seen.put("after", ping());
        return seen;
    }

    /** Pushes until it is stored; what each try came to. */
    private List<Object> untilStored() throws Exception {
        List<Object> tries = new ArrayList<>();
        for (int number = 0; number < 300; number++) {
            tries.add(outcome(() -> lpush(CUT, "back")));
            if (tries.get(number) instanceof Long) {
                break;
            }
            Thread.sleep(100);
        }
        return tries;
    }

    private Map<String, Object> reconnect() throws Exception {
        lpush(CUT, "before");
        ask("close");
        List<Object> closed = untilStored();
        ask("restart");
        return map("closed", closed, "restarted", untilStored());
    }

    /** Does *act* a little later, elsewhere. */
    static Thread later(Runnable act) {
        Thread thread = new Thread(() -> {
            try {
                Thread.sleep(200);
            } catch (InterruptedException error) {
                throw new IllegalStateException(error);
            }
            act.run();
        });
        thread.start();
        return thread;
    }

    static <A, B> List<B> each(List<A> all, Function<A, B> one) {
        List<B> made = new ArrayList<>();
        all.forEach(entry -> made.add(one.apply(entry)));
        return made;
    }
}
