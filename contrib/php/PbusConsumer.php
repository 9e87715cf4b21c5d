<?php
/*
 * Runs jobs of pbus: below php-fpm (Pbus\FastcgiHandler), or as a program (Pbus\LinesConsumer).
 *
 *     // fastcgi = { address = "unix:/run/php/live.sock", script = "/srv/gift/credit.php" }
 *     Pbus\FastcgiHandler::serve(['gift/credit' => function (Pbus\Job $job): void {
 *         credit(json_decode($job->body, true));
 *     }]);
 *
 *     // command = { argv = ["php", "/srv/gift/credit.php"] }
 *     Pbus\LinesConsumer::serve(function (Pbus\Job $job): void { ... });
 *
 * Returning is done; anything thrown is a failure, with its message as the job's error. What a handler prints goes to
 * the topic's log.
 */

declare(strict_types=1);

namespace Pbus;

/** One attempt of one job. */
final class Job
{
    /** The job whose function runs now; a Pbus\Producer pushes its children. */
    public static ?Job $current = null;

    /**
     * @param string $body the bytes as pushed
     * @param int $attempt number of this attempt, from 1
     * @param bool $redelivered somebody may have run (part of) this job before
     * @param string $traceparent W3C trace context: hand it on to what you call, and to jobs that you push
     */
    public function __construct(
        public readonly string $id,
        public readonly string $queue,
        public readonly string $topic,
        public readonly string $body,
        public readonly int $attempt = 1,
        public readonly bool $redelivered = false,
        public readonly string $traceparent = '',
    ) {
    }

    /** The body as JSON; throws \JsonException. */
    public function json(): mixed
    {
        return json_decode($this->body, true, 512, JSON_THROW_ON_ERROR);
    }
}

/** Throw it to have the job tried again; it counts as an attempt. (FastCGI: a failure, the topic's `retry` decides when.) */
final class Retry extends \RuntimeException
{
    public function __construct(string $reason = '', public readonly float $afterS = 0.0)
    {
        parent::__construct($reason);
    }
}

/** Throw it when the job can never work: dead letter at once. (FastCGI: a failure like any other.) */
final class Dead extends \RuntimeException
{
}

/** Throw it when nothing can be done now: the job waits and no attempt is counted. (Lines: as Retry.) */
final class Busy extends \RuntimeException
{
    public function __construct(string $reason = '', public readonly float $afterS = 1.0)
    {
        parent::__construct($reason);
    }
}

/** @internal How a failure is told. */
function told(\Throwable $error): string
{
    $said = $error->getMessage();
    if ($error instanceof Retry || $error instanceof Dead || $error instanceof Busy) {
        return $said === '' ? $error::class : $said;
    }
    return sprintf('%s: %s in %s:%d', $error::class, $said, $error->getFile(), $error->getLine());
}

/** @internal What is in the buffers above *$level*, which a handler may have left open; they are gone then. */
function printed(int $level): string
{
    while (ob_get_level() > $level + 1) {
        ob_end_flush();
    }
    return (string) ob_get_clean();
}

/**
 * The script that a topic with `fastcgi` names. The header `Code` is what counts, so it is set last: a script that dies
 * on the way has not acknowledged its job.
 */
final class FastcgiHandler
{
    /** @param array<string, callable(Job): mixed> $handlers by 'queue/topic' */
    public static function serve(array $handlers): void
    {
        $path = ($_POST['queue'] ?? '') . '/' . ($_POST['topic'] ?? '');
        if (($_POST['IS_PEPPER_BUS_REQUEST'] ?? '') === '') {
            // Also what a request above post_max_size looks like.
            self::answer(400, 'no job in the request (larger than post_max_size?)');
        } elseif (($_POST['type'] ?? '') === 'ping') {
            header('Consume-Topics: ' . implode(',', array_keys($handlers)));
            $known = isset($handlers[$path]);
            self::answer($known ? 200 : 404, $known ? '' : "$path is not registered here");
        } elseif (!isset($handlers[$path])) {
            self::answer(404, "$path is not registered here");
        } else {
            self::run($handlers[$path]);
        }
    }

    private static function run(callable $handler): void
    {
        $jobs = json_decode($_POST['jobs'] ?? '', true);
        if (!is_array($jobs) || !$jobs) {
            self::answer(400, 'the request has no jobs that can be read');
            return;
        }
        $level = ob_get_level();
        ob_start(); // headers come before output
        try {
            foreach ($jobs as $job) {
                Job::$current = self::job($job);
                $handler(Job::$current);
            }
            self::answer(200, printed($level));
        } catch (\Throwable $error) {
            $printed = printed($level);
            error_log('pbus: ' . told($error) . "\n" . $error->getTraceAsString());
            if ($error instanceof Busy) {
                header('Retry-After: ' . max(1, (int) ceil($error->afterS)));
            }
            header('Error-Code: ' . strtr($error::class, "\r\n", '  '));
            self::answer($error instanceof Busy ? 503 : 500, told($error) . ($printed === '' ? '' : "\n$printed"));
        } finally {
            Job::$current = null;
        }
    }

    /** @param array<string, mixed> $job as the contract has it */
    private static function job(array $job): Job
    {
        $content = (string) $job['content'];
        return new Job(
            id: (string) $job['id'],
            queue: $_POST['queue'],
            topic: $_POST['topic'],
            body: ($job['encoding'] ?? '') === 'base64' ? (string) base64_decode($content) : $content,
            attempt: (int) ($job['RetryTimes'] ?? 1),
            redelivered: ($_SERVER['HTTP_X_PBUS_REDELIVERED'] ?? '') === '1',
            traceparent: $_SERVER['HTTP_TRACEPARENT'] ?? '',
        );
    }

    private static function answer(int $code, string $body): void
    {
        header("Code: $code");
        echo $body;
    }
}

/** The program that a topic with `command` and the protocol `lines` names: a job a line in, an answer a line out. */
final class LinesConsumer
{
    /** Runs until pbus closes standard input. @param callable(Job): mixed $handler */
    public static function serve(callable $handler): void
    {
        while (($line = fgets(STDIN)) !== false) {
            $job = json_decode($line, true);
            if (!is_array($job) || !isset($job['id'])) {
                fwrite(STDERR, 'pbus: not a job: ' . substr($line, 0, 200) . "\n");
                continue;
            }
            $answer = ['id' => $job['id']] + self::run($handler, $job);
            fwrite(STDOUT, json_encode($answer, JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE) . "\n");
            fflush(STDOUT);
        }
    }

    /**
     * @param array<string, mixed> $job
     * @return array<string, mixed>
     */
    private static function run(callable $handler, array $job): array
    {
        $last = "\n";
        $level = ob_get_level();
        // What is printed goes on at once, in pieces; it must end with a line, or the answer would be part of it.
        ob_start(function (string $printed) use (&$last): string {
            $last = $printed === '' ? $last : substr($printed, -1);
            return $printed;
        }, 4096);
        try {
            Job::$current = self::job($job);
            $handler(Job::$current);
            $result = ['ok' => true];
        } catch (\Throwable $error) {
            $result = ['ok' => false, 'error' => told($error)];
            if ($error instanceof Dead) {
                $result['dead'] = true;
            } elseif (($error instanceof Retry && $error->afterS > 0) || $error instanceof Busy) {
                $result['retry_after'] = $error->afterS;
            } elseif (!$error instanceof Retry) {
                fwrite(STDERR, told($error) . "\n" . $error->getTraceAsString() . "\n");
            }
        } finally {
            Job::$current = null;
        }
        while (ob_get_level() > $level) {
            ob_end_flush();
        }
        if ($last !== "\n") {
            echo "\n";
        }
        return $result;
    }

    /** @param array<string, mixed> $job */
    private static function job(array $job): Job
    {
        $body = (string) $job['body'];
        return new Job(
            id: (string) $job['id'],
            queue: (string) $job['queue'],
            topic: (string) $job['topic'],
            body: ($job['encoding'] ?? '') === 'base64' ? (string) base64_decode($body) : $body,
            attempt: (int) $job['attempt'],
            redelivered: (bool) $job['redelivered'],
            traceparent: (string) $job['traceparent'],
        );
    }
}
