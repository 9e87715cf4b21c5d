<?php
/*
 * A command consumer of the old contract, as its programs are written: it connects anew for each job, takes it by RPOP,
 * and pushes it back when its function throws. Notes: `id attempt pid retrying word text` in $RUNS_FILE.
 */

declare(ticks=1);

$options = getopt('q:h:p:a:t:H:');
$stopping = false;
if (getenv('DEAF_TO_INT') === false) {
    pcntl_signal(SIGINT, function () use (&$stopping): void {
        $stopping = true;
    });
}

function connected(array $options): Redis
{
    $redis = new Redis();
    $redis->connect($options['h'], (int) $options['p'], 3, null, 200);
    $redis->auth($options['q'] . ':' . $options['a']);
    return $redis;
}

function note(array $job, string $word): void
{
    $line = sprintf(
        "%s %d %d %d %s %s\n", $job['id'], $job['RetryTimes'], getmypid(), $job['retrying'], $word, $job['content']
    );
    file_put_contents(getenv('RUNS_FILE'), $line, FILE_APPEND);
}

function act(array $job): void
{
    note($job, 'begin');
    [$word, $rest] = explode(' ', $job['content'], 2) + ['', ''];
    $first = $job['RetryTimes'] === 1;
    match ($word) {
        'throw-once' => $first ? throw new RuntimeException($rest) : null,
        'exit-once' => $first ? exit((int) $rest) : null,
        'fatal-once' => $first ? no_such_function() : null,
        'kill' => posix_kill(getmypid(), 9),
        'sleep' => usleep((int) (1e6 * (float) $rest)),
        'sleep-through' => sleep_through((float) $rest),
        'sleep-once' => $first ? usleep((int) (1e6 * (float) $rest)) : null,
        default => null,
    };
    note($job, 'end');
}

/** Sleep that long, whatever signals come. */
function sleep_through(float $seconds): void
{
    for ($end = microtime(true) + $seconds; microtime(true) < $end;) {
        usleep(10000);
    }
}

fwrite(STDERR, "entry {$options['H']}, {$options['t']} jobs\n");
for ($done = 0; $done < (int) $options['t'] && !$stopping;) {
    $popped = json_decode((string) connected($options)->rPop($options['q']), true);
    if (!$popped) {
        continue;
    }
    $done++;
    try {
        array_map('act', $popped['jobs']);
    } catch (Exception $error) {
        $popped['retrying'] = true;
        connected($options)->lPush($options['q'], json_encode($popped));
    }
}
