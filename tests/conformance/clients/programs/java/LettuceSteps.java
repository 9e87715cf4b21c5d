import io.lettuce.core.Consumer;
import io.lettuce.core.KeyValue;
import io.lettuce.core.Limit;
import io.lettuce.core.Range;
import io.lettuce.core.RedisClient;
import io.lettuce.core.RedisFuture;
import io.lettuce.core.RedisURI;
import io.lettuce.core.StreamMessage;
import io.lettuce.core.TransactionResult;
import io.lettuce.core.XAutoClaimArgs;
import io.lettuce.core.XReadArgs;
import io.lettuce.core.XReadArgs.StreamOffset;
import io.lettuce.core.api.StatefulRedisConnection;
import io.lettuce.core.api.sync.RedisCommands;
import io.lettuce.core.codec.ByteArrayCodec;
import io.lettuce.core.codec.StringCodec;
import io.lettuce.core.output.IntegerOutput;
import io.lettuce.core.protocol.CommandArgs;
import io.lettuce.core.protocol.ProtocolKeyword;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.function.Function;

/** Lettuce with its defaults: one connection for everybody, and one of its own for what blocks and pulls. */
final class LettuceSteps extends Steps {
    private static final RedisClient CLIENT = RedisClient.create();
    private final StatefulRedisConnection<String, String> connection = CLIENT.connect(place(PORT).build());
    private final RedisCommands<String, String> shared = connection.sync();
    private final RedisCommands<String, String> puller = CLIENT.connect(place(PORT).build()).sync();

    public static void main(String[] arguments) {
        new LettuceSteps().run();
        System.exit(0);
    }

    private static RedisURI.Builder place(int port) {
        return RedisURI.builder().withHost(HOST).withPort(port);
    }

    private static <T> T as(RedisURI.Builder place, Function<RedisCommands<String, String>, T> act) {
        try (var own = CLIENT.connect(place.build())) {
            return act.apply(own.sync());
        }
    }

    private static RedisURI.Builder identity(String user, String password) {
        return user == null ? place(PORT).withPassword(password.toCharArray()) : place(PORT).withAuthentication(user, password);
    }

    @Override
    Map<String, Object> connect() {
        String version = RedisClient.class.getPackage().getImplementationVersion().split("/")[0];
        return map("version", version, "ping", ping(), "info", shared.clientInfo());
    }

    @Override
    Object push(List<byte[]> bodies) {
        try (var bytes = CLIENT.connect(ByteArrayCodec.INSTANCE, place(PORT).build())) {
            return bytes.sync().lpush(BULK.getBytes(StandardCharsets.UTF_8), bodies.toArray(new byte[0][]));
        }
    }

    @Override
    String add(String queue, Map<String, String> fields) {
        return shared.xadd(queue, fields);
    }

    @Override
    long lpush(String queue, String... bodies) {
        return shared.lpush(queue, bodies);
    }

    @Override
    Map<String, Object> pipeline() throws Exception {
        var async = connection.async();
        List<RedisFuture<Long>> many = new ArrayList<>(), mixed = new ArrayList<>();
        connection.setAutoFlushCommands(false);
        for (int number = 0; number < 100; number++) {
            many.add(async.lpush(BULK, "pipe " + number));
        }
        many.add(async.llen(BULK));
        connection.flushCommands();
        List<Long> replies = new ArrayList<>();
        for (RedisFuture<Long> each : many) {
            replies.add(each.get());
        }
        mixed.add(async.lpush(BULK, "good 0"));
        mixed.add(async.lpush("nope", "bad"));
        mixed.add(async.lpush(BULK, "good 1"));
        connection.setAutoFlushCommands(true);
        connection.flushCommands();
        return map("replies", replies, "refused", each(mixed, LettuceSteps::came));
    }

    /** What became of a future. */
    private static Object came(RedisFuture<Long> future) {
        try {
            return future.get();
        } catch (ExecutionException | InterruptedException error) {
            return shown(error.getCause());
        }
    }

    @Override
    Map<String, Object> transaction() {
        shared.multi();
        shared.lpush(BULK, "both 0");
        shared.lpush(BULK, "both 1");
        shared.llen(BULK);
        TransactionResult whole = shared.exec();
        List<Object> replies = List.of(whole.get(0), whole.get(1), whole.get(2));
        return map("replies", replies, "discarded", never("nope"), "refused", never("full"));
    }

    private Object never(String other) {
        return outcome(() -> {
            shared.multi();
            shared.lpush(BULK, "never");
            shared.lpush(other, "never");
            return shared.exec();
        });
    }

    @Override
    String shares() {
        return "one connection";
    }

    @Override
    String echo(String text) {
        return shared.echo(text);
    }

    @Override
    Map<String, Object> authenticate() {
        return map(
            "user", as(identity(SAFE, "pw"), own -> own.lpush(SAFE, "safe 0")),
            "password", as(identity(null, SAFE + ":pw"), own -> own.lpush(SAFE, "safe 1")),
            "topic", as(identity(SAFE + "/t", "tpw"), own -> own.rpop(SAFE + "/t")));
    }

    @Override
    @SuppressWarnings("unchecked") // an array of generic parameters, in their API
    List<Map<String, String>> read(String from, Integer count, Integer blockMs) {
        XReadArgs how = new XReadArgs();
        if (count != null) {
            how.count(count);
        }
        if (blockMs != null) {
            how.block(blockMs);
        }
        var start = from.equals(">") ? StreamOffset.lastConsumed(QUEUE) : StreamOffset.from(QUEUE, from);
        List<StreamMessage<String, String>> messages = puller.xreadgroup(Consumer.from("t", "me"), how, start);
        return each(messages, message -> {
            Map<String, String> shown = map("id", message.getId());
            shown.putAll(message.getBody());
            return shown;
        });
    }

    @Override
    Map<String, Object> look() {
        var listed = shared.xpending(QUEUE, "t", Range.unbounded(), Limit.from(10));
        var claimed = shared.xautoclaim(QUEUE, XAutoClaimArgs.Builder.xautoclaim(Consumer.from("t", "me"), 0, "0-0"));
        Map<String, String> never = map("body", "never", "delay", "60000");
        return map(
            "pending", shared.xpending(QUEUE, "t").getCount(), "ids", each(listed, claim -> claim.getId()),
            "consumer", listed.get(0).getConsumer(), "groups", each(shared.xinfoGroups(QUEUE), LettuceSteps::name),
            "consumers", each(shared.xinfoConsumers(QUEUE, "t"), LettuceSteps::name),
            "last", ((List<?>) value(shared.xinfoStream(QUEUE), "last-entry")).get(0),
            "bodies", each(shared.xrange(QUEUE, Range.unbounded(), Limit.from(100)), job -> job.getBody().get("body")),
            "claimed", claimed.getMessages().size(), "cancelled", shared.xdel(QUEUE, shared.xadd(QUEUE, never)));
    }

    private static Object name(Object row) {
        return value((List<?>) row, "name");
    }

    /** What stands behind a name: XINFO is not parsed by Lettuce. */
    private static Object value(List<?> row, String name) {
        return row.get(row.indexOf(name) + 1);
    }

    @Override
    long ack(List<String> ids) {
        return shared.xack(QUEUE, "t", ids.toArray(new String[0]));
    }

    private static ProtocolKeyword named(String name) {
        return () -> name.getBytes(StandardCharsets.US_ASCII);
    }

    @Override
    long command(String... words) {
        CommandArgs<String, String> rest = new CommandArgs<>(StringCodec.UTF8);
        Arrays.stream(words).skip(1).forEach(rest::add);
        return shared.dispatch(named(words[0]), new IntegerOutput<>(StringCodec.UTF8), rest);
    }

    @Override
    String dead() {
        return shared.hgetall(QUEUE + "/t").get("dead");
    }

    @Override
    Map<String, Object> blockingPop() throws Exception {
        Thread waker = later(() -> shared.lpush(QUEUE, "wake"));
        KeyValue<String, String> woken = puller.brpop(5, QUEUE + "/t");
        waker.join();
        KeyValue<String, String> nothing = puller.brpop(0.05, QUEUE + "/t");
        return map("got", List.of(woken.getKey(), woken.getValue()), "nothing", nothing == null || !nothing.hasValue());
    }

    @SuppressWarnings("unchecked") // as above
    private static Object taking(RedisCommands<String, String> from, String queue, String topic) {
        return outcome(() -> from.xreadgroup(Consumer.from(topic, "me"), StreamOffset.lastConsumed(queue)));
    }

    @Override
    Map<String, Object> refusals() {
        return map(
            "WRONGPASS", outcome(() -> as(identity(SAFE, "no"), own -> own.lpush(SAFE, "x"))),
            "NOPERM", as(identity(SAFE, "pw"), own -> taking(own, SAFE, "t")), "NOTOPIC", taking(shared, QUEUE, "nope"),
            "BUSYGROUP", outcome(() -> shared.xgroupCreate(StreamOffset.latest(QUEUE), "t")));
    }

    @Override
    String ping() {
        return shared.ping();
    }

    @Override
    Map<String, Object> unanswered() {
        Map<String, String> keyed = map("body", "CUT:" + QUEUE + ":dedupe", "dedupe", QUEUE + " cut");
        return as(place(CUT_PORT), cut -> map(
            "plain", outcome(() -> cut.lpush(CUT, "CUT:" + QUEUE + ":plain")),
            "dedupe", outcome(() -> cut.xadd(CUT, keyed))));
    }
}
