<?php
/*
 * A producer in PHP: `php push.php HOST PORT QUEUE PREFIX COUNT PIPELINE FILE`.
 *
 * Pushes COUNT jobs with phpredis, PIPELINE at a time (1: one by one), and writes what it sent and
 * heard to FILE: `key, sent, replied, ok|err|unknown, error` by tabs, fsynced after each reply.
 */

[, $host, $port, $queue, $prefix, $count, $pipeline, $path] = $argv;
$file = fopen($path, 'ab');
$padding = str_repeat('x', 150);

function connected(string $host, int $port): Redis
{
    $redis = new Redis();
    $redis->connect($host, $port, 5.0, null, 0, 10.0);
    return $redis;
}

$redis = connected($host, (int) $port);
for ($next = 0; $next < $count; $next += $pipeline) {
    $keys = [];
    for ($number = $next; $number < min($next + $pipeline, $count); $number++) {
        $keys[] = "$prefix-$number";
    }
    $sent = microtime(true);
    $replies = [];
    $about = '';
    $redis->clearLastError();
    try {
        if ($pipeline > 1) {
            $batch = $redis->pipeline();
            foreach ($keys as $key) {
                $batch->lPush($queue, "$key $padding");
            }
            $replies = $batch->exec();
        } else {
            $replies = [$redis->lPush($queue, "$keys[0] $padding")];
            $about = (string) $redis->getLastError();
        }
    } catch (RedisException $error) {
        $about = $error->getMessage();
    }
    $replied = microtime(true);
    foreach ($keys as $place => $key) {
        $reply = $replies[$place] ?? null;
        // An integer above 0 is "stored"; a refusal is an error's first word; all else nobody knows.
        $refused = preg_match('/^(NO[A-Z]+|WRONGPASS|QUEUEFULL|TOOBIG|BADVALUE|UNAVAILABLE)/', $about);
        $result = is_int($reply) && $reply > 0 ? 'ok' : ($refused && $pipeline == 1 ? 'err' : 'unknown');
        fwrite($file, sprintf("%s\t%.6F\t%.6F\t%s\t%s\n", $key, $sent, $replied, $result, strtr($about, "\t\r\n", '   ')));
    }
    fflush($file);
    fsync($file);
    if ($about !== '') {
        $redis->close();
        usleep(20000);
        try {
            $redis = connected($host, (int) $port);
        } catch (RedisException $error) {
            // the next push fails the same way and says so
        }
    }
}
