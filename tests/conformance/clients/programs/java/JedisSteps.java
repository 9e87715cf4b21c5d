import redis.clients.jedis.AbstractTransaction;
import redis.clients.jedis.CommandArguments;
import redis.clients.jedis.Jedis;
import redis.clients.jedis.Pipeline;
import redis.clients.jedis.RedisClient;
import redis.clients.jedis.Response;
import redis.clients.jedis.StreamEntryID;
import redis.clients.jedis.commands.ProtocolCommand;
import redis.clients.jedis.params.XAddParams;
import redis.clients.jedis.params.XAutoClaimParams;
import redis.clients.jedis.params.XPendingParams;
import redis.clients.jedis.params.XReadGroupParams;
import redis.clients.jedis.resps.StreamEntry;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.function.Function;

/** Jedis with its defaults: a RedisClient, which is a pool, and a Jedis, which is one connection, for pulling. */
final class JedisSteps extends Steps {
    private final RedisClient shared = RedisClient.create(HOST, PORT);
    private final Jedis puller = new Jedis(HOST, PORT);

    public static void main(String[] arguments) {
        new JedisSteps().run();
        System.exit(0);
    }

    private static <T> T as(String user, String password, Function<RedisClient, T> act) {
        try (RedisClient own = RedisClient.create(HOST, PORT, user, password)) {
            return act.apply(own);
        }
    }

    /** A command that the client has no method for. */
    private static CommandArguments named(String name, String... rest) {
        ProtocolCommand command = () -> name.getBytes(StandardCharsets.US_ASCII);
        return new CommandArguments(command).addObjects((Object[]) rest);
    }

    @Override
    Map<String, Object> connect() throws IOException {
        Properties own = new Properties();
        own.load(RedisClient.class.getResourceAsStream("pom.properties"));
        Object info = shared.executeCommand(named("CLIENT", "INFO"));
        return map("version", own.getProperty("version"), "ping", ping(), "info", new String((byte[]) info, StandardCharsets.UTF_8));
    }

    @Override
    Object push(List<byte[]> bodies) {
        return shared.lpush(BULK.getBytes(StandardCharsets.UTF_8), bodies.toArray(new byte[0][]));
    }

    @Override
    String add(String queue, Map<String, String> fields) {
        return shared.xadd(queue, XAddParams.xAddParams(), fields).toString();
    }

    @Override
    long lpush(String queue, String... bodies) {
        return shared.lpush(queue, bodies);
    }

    @Override
    Map<String, Object> pipeline() {
        List<Object> replies;
        try (Pipeline many = shared.pipelined()) {
            for (int number = 0; number < 100; number++) {
                many.lpush(BULK, "pipe " + number);
            }
            many.llen(BULK);
            replies = many.syncAndReturnAll();
        }
        List<Response<Long>> mixed = new ArrayList<>();
        try (Pipeline some = shared.pipelined()) {
            mixed.add(some.lpush(BULK, "good 0"));
            mixed.add(some.lpush("nope", "bad"));
            mixed.add(some.lpush(BULK, "good 1"));
        }
        return map("replies", replies, "refused", each(mixed, response -> outcome(response::get)));
    }

    @Override
    Map<String, Object> transaction() {
        List<Object> replies;
        try (AbstractTransaction whole = shared.multi()) {
            whole.lpush(BULK, "both 0");
            whole.lpush(BULK, "both 1");
            whole.llen(BULK);
            replies = whole.exec();
        }
        return map("replies", replies, "discarded", never("nope"), "refused", never("full"));
    }

    private Object never(String other) {
        return outcome(() -> {
            try (AbstractTransaction none = shared.multi()) {
                none.lpush(BULK, "never");
                none.lpush(other, "never");
                return none.exec();
            }
        });
    }

    @Override
    String shares() {
        return "";
    }

    @Override
    String echo(String text) {
        Object reply = shared.executeCommand(named("ECHO", text));
        return new String((byte[]) reply, StandardCharsets.UTF_8);
    }

    @Override
    Map<String, Object> authenticate() {
        return map(
            "user", as(SAFE, "pw", own -> own.lpush(SAFE, "safe 0")),
            "password", as(null, SAFE + ":pw", own -> own.lpush(SAFE, "safe 1")),
            "topic", as(SAFE + "/t", "tpw", own -> own.rpop(SAFE + "/t")));
    }

    @Override
    List<Map<String, String>> read(String from, Integer count, Integer blockMs) {
        XReadGroupParams how = XReadGroupParams.xReadGroupParams();
        if (count != null) {
            how.count(count);
        }
        if (blockMs != null) {
            how.block(blockMs);
        }
        StreamEntryID start = from.equals(">") ? StreamEntryID.XREADGROUP_UNDELIVERED_ENTRY : new StreamEntryID(0, 0);
        var reply = puller.xreadGroup("t", "me", how, Map.of(QUEUE, start));
        List<StreamEntry> entries = reply == null || reply.isEmpty() ? List.of() : reply.get(0).getValue();
        return each(entries, entry -> {
            Map<String, String> shown = map("id", entry.getID().toString());
            shown.putAll(entry.getFields());
            return shown;
        });
    }

    @Override
    Map<String, Object> look() {
        var listed = shared.xpending(QUEUE, "t", XPendingParams.xPendingParams("-", "+", 10));
        var claimed = shared.xautoclaim(
            QUEUE, "t", "me", 0, new StreamEntryID(0, 0), XAutoClaimParams.xAutoClaimParams());
        Map<String, String> never = map("body", "never", "delay", "60000");
        return map(
            "pending", shared.xpending(QUEUE, "t").getTotal(), "ids", each(listed, claim -> claim.getID().toString()),
            "consumer", listed.get(0).getConsumerName(),
            "groups", each(shared.xinfoGroups(QUEUE), group -> group.getName()),
            "consumers", each(shared.xinfoConsumers2(QUEUE, "t"), consumer -> consumer.getName()),
            "last", shared.xinfoStream(QUEUE).getLastEntry().getID().toString(),
            "bodies", each(shared.xrange(QUEUE, "-", "+", 100), job -> job.getFields().get("body")),
            "claimed", claimed.getValue().size(), "cancelled", shared.xdel(QUEUE, shared.xadd(QUEUE, XAddParams.xAddParams(), never)));
    }

    @Override
    long ack(List<String> ids) {
        return shared.xack(QUEUE, "t", each(ids, StreamEntryID::new).toArray(new StreamEntryID[0]));
    }

    @Override
    long command(String... words) {
        return (Long) shared.executeCommand(named(words[0], Arrays.copyOfRange(words, 1, words.length)));
    }

    @Override
    String dead() {
        return shared.hgetAll(QUEUE + "/t").get("dead");
    }

    @Override
    Map<String, Object> blockingPop() throws Exception {
        Thread waker = later(() -> shared.lpush(QUEUE, "wake"));
        var woken = shared.brpop(5.0, QUEUE + "/t");
        waker.join();
        var nothing = shared.brpop(0.05, QUEUE + "/t");
        return map("got", List.of(woken.getKey(), woken.getValue()), "nothing", nothing == null);
    }

    private static Object taking(RedisClient from, String queue, String topic) {
        var start = Map.of(queue, StreamEntryID.XREADGROUP_UNDELIVERED_ENTRY);
        return outcome(() -> from.xreadGroup(topic, "me", XReadGroupParams.xReadGroupParams(), start));
    }

    @Override
    Map<String, Object> refusals() {
        StreamEntryID end = StreamEntryID.XGROUP_LAST_ENTRY;
        return map(
            "WRONGPASS", outcome(() -> as(SAFE, "no", own -> own.lpush(SAFE, "x"))),
            "NOPERM", as(SAFE, "pw", own -> taking(own, SAFE, "t")), "NOTOPIC", taking(shared, QUEUE, "nope"),
            "BUSYGROUP", outcome(() -> shared.xgroupCreate(QUEUE, "t", end, false)));
    }

    @Override
    String ping() {
        return shared.ping();
    }

    @Override
    Map<String, Object> unanswered() {
        Map<String, String> keyed = map("body", "CUT:" + QUEUE + ":dedupe", "dedupe", QUEUE + " cut");
        try (RedisClient cut = RedisClient.create(HOST, CUT_PORT)) {
            Object plain = outcome(() -> cut.lpush(CUT, "CUT:" + QUEUE + ":plain"));
            return map("plain", plain, "dedupe", outcome(() -> cut.xadd(CUT, XAddParams.xAddParams(), keyed).toString()));
        }
    }
}
