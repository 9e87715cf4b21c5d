<?php
/*
 * A program of the protocol `lines` that does what the body of the job says, and notes every run before it begins.
 *
 *     body = WORD [ARGUMENT] [free text]; runs are lines `id attempt pid redelivered word text` in $RUNS_FILE
 */

declare(strict_types=1);

require __DIR__ . '/../../../contrib/php/PbusConsumer.php';

function note(Pbus\Job $job, string $word): void
{
    $line = sprintf("%s %d %d %d %s %s\n", $job->id, $job->attempt, getmypid(), $job->redelivered, $word, $job->body);
    file_put_contents((string) getenv('RUNS_FILE'), $line, FILE_APPEND);
}

function act(Pbus\Job $job): void
{
    [$word, $rest] = explode(' ', $job->body, 2) + ['', ''];
    $first = $job->attempt === 1;
    match ($word) {
        'ok' => null,
        'fail' => throw new RuntimeException($rest),
        'fail-once' => $first ? throw new RuntimeException($rest) : null,
        'retry-once' => $first ? throw new Pbus\Retry('not yet', (float) $rest) : null,
        'dead' => throw new Pbus\Dead($rest),
        'kill' => posix_kill(getmypid(), 9),
        'kill-once' => $first ? posix_kill(getmypid(), 9) : null,
        'exit-once' => $first ? exit((int) $rest) : null,
        'memory-once' => $first ? str_repeat('x', 1 << 30) : null,
        'sleep' => usleep((int) (1e6 * (float) $rest)),
        'sleep-once' => $first ? usleep((int) (1e6 * (float) $rest)) : null,
        'say' => say($rest),
    };
}

function say(string $what): void
{
    echo "printed $what\n", 'without an end';
    fwrite(STDERR, "complained $what\n");
}

Pbus\LinesConsumer::serve(function (Pbus\Job $job): void {
    note($job, 'begin');
    act($job);
    note($job, 'end');
});
