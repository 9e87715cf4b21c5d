<?php
/*
 * A program of the protocol `lines` that keeps the ledger: `key attempt pid t0 t1 id ok|failed`, one O_APPEND write
 * before it answers. Where to write is in $LEDGER_DIR, which it inherits.
 */

declare(strict_types=1);

require __DIR__ . '/../../../contrib/php/PbusConsumer.php';

Pbus\LinesConsumer::serve(function (Pbus\Job $job): void {
    $start = microtime(true);
    $words = explode(' ', $job->body);
    $orders = ['sleep' => 0, 'fail' => 0, 'die' => 0];
    foreach ($words as $word) {
        if (preg_match('/^(sleep|fail|die)=(\d+)$/', $word, $match)) {
            $orders[$match[1]] = (int) $match[2];
        }
    }
    usleep($orders['sleep'] * 1000);
    if ($job->attempt <= $orders['die']) {
        posix_kill(getmypid(), 9);
    }
    $ok = $job->attempt > $orders['fail'];
    $line = sprintf(
        "%s %d %d %.6F %.6F %s %s\n",
        $words[0], $job->attempt, getmypid(), $start, microtime(true), $job->id, $ok ? 'ok' : 'failed'
    );
    file_put_contents(getenv('LEDGER_DIR') . "/$job->queue.$job->topic", $line, FILE_APPEND);
    if (!$ok) {
        throw new RuntimeException('failed as ordered');
    }
});
