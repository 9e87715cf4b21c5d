<?php
// phpredis. What each step does is said in foreign/steps.py.
declare(strict_types=1);

$host = getenv('PBUS_HOST');
$port = (int) getenv('PBUS_PORT');
$Q = getenv('PBUS_QUEUE');
const TRACEPARENT = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';

function client(?int $to = null): Redis
{
    global $host, $port;
    $redis = new Redis();
    $redis->connect($host, $to ?? $port);
    return $redis;
}

function say(array $message): void
{
    echo json_encode($message, JSON_UNESCAPED_UNICODE | JSON_THROW_ON_ERROR), "\n";
    flush();
}

function ask(string $what): void
{
    say(['ask' => $what]);
    fgets(STDIN);
}

/** The reply, or what PHP sees instead: an exception, or false with the text in getLastError(). */
function outcome(Redis $redis, callable $call): mixed
{
    $redis->clearLastError();
    try {
        $reply = $call($redis);
    } catch (RedisException $error) {
        return ['class' => get_class($error), 'text' => $error->getMessage()];
    }
    $text = $redis->getLastError();
    $redis->clearLastError();
    return $reply === false && $text !== null ? ['class' => 'false', 'text' => $text] : $reply;
}

function entries(mixed $reply): array
{
    $found = [];
    foreach ($reply ?: [] as $messages) {
        foreach ($messages as $id => $fields) {
            $found[] = ['id' => $id] + $fields;
        }
    }
    return $found;
}

function read(string $start = '>', ?int $count = null, ?int $block = null): array
{
    global $r, $Q;
    return entries($r->xReadGroup('t', 'me', [$Q => $start], $count, $block));
}

$r = client();
$pulled = [];

$steps = [
    'connect' => function () use ($r) {
        $info = $r->rawCommand('CLIENT', 'INFO');
        return ['version' => phpversion('redis'), 'ping' => $r->ping() === true ? 'PONG' : '', 'info' => $info];
    },

    'push' => function () use ($r, $Q) {
        $bodies = array_map(fn ($index) => "push $index", range(0, 96));
        return ['reply' => $r->lPush("$Q.bulk", ...$bodies, ...['', '花椒 ñ', "\x00\xff\r\n"])];
    },

    'push-typed' => function () use ($r, $Q) {
        $options = [
            'dedupe' => "$Q order 4711", 'delay' => '1', 'ttl' => '60000', 'key' => 'k', 'traceparent' => TRACEPARENT,
        ];
        $typed = fn () => $r->xAdd("$Q.bulk", '*', ['body' => 'typed'] + $options);
        return ['ids' => [$typed(), $typed()], 'plain' => $r->xAdd("$Q.bulk", '*', ['body' => 'plain'])];
    },

    'pipeline' => function () use ($r, $Q) {
        $r->multi(Redis::PIPELINE);
        foreach (range(0, 99) as $index) {
            $r->lPush("$Q.bulk", "pipe $index");
        }
        $replies = $r->lLen("$Q.bulk")->exec();
        $mixed = fn ($r) => $r->multi(Redis::PIPELINE)
            ->lPush("$Q.bulk", 'good 0')->lPush('nope', 'bad')->lPush("$Q.bulk", 'good 1')->exec();
        return ['replies' => $replies, 'refused' => outcome($r, $mixed)];
    },

    'transaction' => function () use ($Q) {
        $r = client();
        $replies = $r->multi()->lPush("$Q.bulk", 'both 0')->lPush("$Q.bulk", 'both 1')->lLen("$Q.bulk")->exec();
        $discarded = outcome($r, fn ($r) => $r->multi()->lPush("$Q.bulk", 'never')->lPush('nope', 'never')->exec());
        $raw = client(); // exec() itself waits for more replies when it is refused, until its read timeout
        $words = [['MULTI'], ['LPUSH', "$Q.bulk", 'never'], ['LPUSH', 'full', 'never'], ['EXEC']];
        $refused = array_map(fn ($some) => outcome($raw, fn ($r) => $r->rawCommand(...$some)), $words)[3];
        $note = "refused: `rawCommand('EXEC')`";
        return ['replies' => $replies, 'discarded' => $discarded, 'refused' => $refused, 'note' => $note];
    },

    'pool' => function () use ($host, $port, $Q) {
        $workers = array_map(fn () => new Redis(), range(0, 7));
        foreach ($workers as $worker) {
            $worker->pconnect($host, $port);
        }
        [$mixedUp, $pushed] = [0, 0];
        foreach (range(0, 24) as $turn) {
            foreach ($workers as $number => $worker) {
                $own = "pool $number $turn";
                $mixedUp += $worker->echo($own) === $own ? 0 : 1;
                $pushed += $worker->lPush("$Q.bulk", $own) > 0 ? 1 : 0;
            }
        }
        return ['mixed_up' => $mixedUp, 'pushed' => $pushed, 'note' => '`pconnect`'];
    },

    'authenticate' => function () use ($Q) {
        [$user, $password, $topic] = [client(), client(), client()];
        $user->auth(["$Q.safe", 'pw']);
        $password->auth("$Q.safe:pw");
        $topic->auth(["$Q.safe/t", 'tpw']);
        return [
            'user' => $user->lPush("$Q.safe", 'safe 0'), 'password' => $password->lPush("$Q.safe", 'safe 1'),
            'topic' => $topic->rPop("$Q.safe/t"),
        ];
    },

    'pull' => function () use ($r, $Q, &$pulled) {
        $r->lPush($Q, ...array_map(fn ($index) => "pull $index", range(0, 3)));
        $r->xAdd($Q, '*', ['body' => 'pull 4', 'traceparent' => TRACEPARENT]);
        [$first, $rest] = [read(count: 3, block: 2000), read()];
        $pulled = array_column([...$first, ...$rest], 'id');
        [$nothing, $waited, $open] = [count(read()), count(read(block: 50)), count(read('0'))];
        return ['first' => $first, 'rest' => $rest, 'nothing' => $nothing, 'waited' => $waited, 'open' => $open];
    },

    'look' => function () use ($r, $Q) {
        $listed = $r->xPending($Q, 't', '-', '+', 10);
        return [
            'pending' => $r->xPending($Q, 't')[0], 'ids' => array_column($listed, 0), 'consumer' => $listed[0][1],
            'groups' => array_column($r->xInfo('GROUPS', $Q), 'name'),
            'consumers' => array_column($r->xInfo('CONSUMERS', $Q, 't'), 'name'),
            'last' => array_key_first($r->xInfo('STREAM', $Q)['last-entry']),
            'bodies' => array_column($r->xRange($Q, '-', '+', 100), 'body'),
            'claimed' => count($r->rawCommand('XAUTOCLAIM', $Q, 't', 'me', '0', '0-0')[1]),
            'cancelled' => $r->xDel($Q, [$r->xAdd($Q, '*', ['body' => 'never', 'delay' => '60000'])]),
        ];
    },

    'ack-elsewhere' => function () use ($Q, &$pulled) {
        $other = client();
        [$acked, $again] = [$other->xAck($Q, 't', $pulled), $other->xAck($Q, 't', $pulled)];
        return ['acked' => $acked, 'again' => $again, 'open' => count(read('0'))];
    },

    'nack' => function () use ($r, $Q) {
        $r->lPush($Q, 'nack');
        [$entry] = read(block: 2000);
        $retried = $r->rawCommand('PBUS.NACK', $Q, 't', $entry['id'], 'DELAY', '0', 'REASON', 'not today');
        [$again] = read(block: 5000);
        $dead = $r->rawCommand('PBUS.NACK', $Q, 't', $again['id'], 'DEAD');
        $counted = $r->hGetAll("$Q/t")['dead'];
        return ['retried' => $retried, 'attempt' => $again['attempt'], 'dead' => $dead, 'counted' => $counted];
    },

    'blocking-pop' => function () use ($r, $host, $port, $Q) {
        $code = "usleep(100000); \$r = new Redis(); \$r->connect('$host', $port); \$r->lPush('$Q', 'wake');";
        $other = proc_open([PHP_BINARY, '-r', $code], [], $pipes);
        $got = $r->brPop(["$Q/t"], 5);
        proc_close($other);
        return ['got' => $got, 'nothing' => $r->brPop(["$Q/t"], 1) === []];
    },

    'errors' => function () use ($r, $Q) {
        [$nobody, $owner] = [client(), client()];
        $owner->auth(["$Q.safe", 'pw']);
        $found = [
            'NOAUTH' => outcome($r, fn ($r) => $r->lPush("$Q.safe", 'x')),
            'WRONGPASS' => outcome($nobody, fn ($r) => $r->auth(["$Q.safe", 'no'])),
            'NOPERM' => outcome($owner, fn ($r) => $r->xReadGroup('t', 'me', ["$Q.safe" => '>'])),
            'NOQUEUE' => outcome($r, fn ($r) => $r->lPush('nope', 'x')),
            'NOTOPIC' => outcome($r, fn ($r) => $r->xReadGroup('nope', 'me', [$Q => '>'])),
            'QUEUEFULL' => outcome($r, fn ($r) => $r->lPush('full', 'x')),
            'TOOBIG' => outcome($r, fn ($r) => $r->lPush($Q, str_repeat('x', 1048577))),
            'BADVALUE' => outcome($r, fn ($r) => $r->xAdd($Q, '*', ['body' => 'x', 'delay' => '-1'])),
            'BUSYGROUP' => outcome($r, fn ($r) => $r->xGroup('CREATE', $Q, 't', '$')),
            'ERR' => outcome($r, fn ($r) => $r->rawCommand('NOSUCH')),
        ];
        ask('freeze');
        $found['MAYBESTORED'] = outcome($r, fn ($r) => $r->lPush('away', 'x'));
        $found['UNAVAILABLE'] = outcome($r, fn ($r) => $r->lPush('away', 'x'));
        ask('thaw');
        return $found + ['after' => $r->ping() === true ? 'PONG' : ''];
    },

    'unanswered' => function () use ($Q) {
        $cut = client((int) getenv('PBUS_CUT_PORT'));
        $typed = ['body' => "CUT:$Q:dedupe", 'dedupe' => "$Q cut"];
        return [
            'plain' => outcome($cut, fn ($r) => $r->lPush("$Q.cut", "CUT:$Q:plain")),
            'dedupe' => outcome($cut, fn ($r) => $r->xAdd("$Q.cut", '*', $typed)),
        ];
    },

    'reconnect' => function () use ($r, $Q) {
        $after = function (string $what) use ($r, $Q) {
            ask($what);
            $outcomes = [];
            while (!is_int(end($outcomes)) && count($outcomes) < 40) {
                usleep($outcomes ? 100000 : 0);
                $outcomes[] = outcome($r, fn ($r) => $r->lPush("$Q.cut", 'back'));
            }
            return $outcomes;
        };
        $r->lPush("$Q.cut", 'before');
        return ['closed' => $after('close'), 'restarted' => $after('restart')];
    },
];

foreach ($steps as $name => $step) {
    try {
        say(['step' => $name, 'got' => $step()]);
    } catch (Throwable $error) {
        say(['step' => $name, 'failed' => get_class($error) . ": $error"]);
    }
}
