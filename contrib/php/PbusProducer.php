<?php
/*
 * Pushes jobs to pbus with phpredis. One file, nothing else to install: copy it, or require it from here.
 *
 *     $bus = new Pbus\Producer(['127.0.0.1:12018', 'bus.example.com:12018'], 'gift:PASSWORD');
 *     $id = $bus->push('gift', json_encode(['uid' => 7]), dedupe: 'order-4711');
 *
 * Rule: the first address that can be connected to is used, and kept. The next one is tried only when connecting
 * failed, never after a push was sent: a push whose answer was lost may be stored, and only you know whether it may
 * be there twice. phpredis' own repetitions are switched off for the same reason.
 *
 * What is thrown says what is true: every Pbus\NotStored is certainly not stored, a Pbus\MaybeStored nobody knows.
 * A push with a `dedupe` key may be repeated after either: within the queue's `dedupe_window` it stays one job.
 *
 * Inside a handler the bus is told which job runs there (PBUS.PARENT): what it pushes is in the trace of that job.
 */

declare(strict_types=1);

namespace Pbus;

/** A push that was not confirmed. `word` is the first word of the bus' answer, or '' where there was none. */
abstract class PushError extends \RuntimeException
{
    final public function __construct(string $message, public readonly string $word = '', ?\Throwable $previous = null)
    {
        parent::__construct($message, 0, $previous);
    }
}

/** Certainly not stored. */
class NotStored extends PushError
{
}

/** None of the addresses can be reached (none was sent anything), or the bus says UNAVAILABLE: try again later. */
class Unavailable extends NotStored
{
}

/** NOAUTH, WRONGPASS, NOPERM: the identity or its password is wrong, or may not push there. */
class AuthFailed extends NotStored
{
}

/** NOQUEUE, NOTOPIC: no such queue, or nobody subscribes to it. */
class NoQueue extends NotStored
{
}

/** QUEUEFULL: its backlog is at its bound; try again later. */
class QueueFull extends NotStored
{
}

/** TOOBIG: the body is larger than the bus takes. */
class TooBig extends NotStored
{
}

/** BADVALUE: an option is missing, malformed or out of range. */
class BadValue extends NotStored
{
}

/** MAYBESTORED, or the connection ended after the push was sent: it may be stored. */
class MaybeStored extends PushError
{
}

final class Producer
{
    private const ERRORS = [
        'NOAUTH' => AuthFailed::class, 'WRONGPASS' => AuthFailed::class, 'NOPERM' => AuthFailed::class,
        'NOQUEUE' => NoQueue::class, 'NOTOPIC' => NoQueue::class, 'QUEUEFULL' => QueueFull::class,
        'TOOBIG' => TooBig::class, 'BADVALUE' => BadValue::class, 'UNAVAILABLE' => Unavailable::class,
        'MAYBESTORED' => MaybeStored::class,
    ];
    /** A connection that was not used for so long is asked whether it still is one. */
    private const IDLE_S = 1.0;
    private const JOB_ID = '[0-9]{1,14}-[0-9]{1,20}';

    private ?\Redis $redis = null;
    /** @var ?list<string> the job whose children this connection pushes, as the bus was told; null: none */
    private ?array $parent = null;
    private float $usedS = 0.0;
    private string $place = '';

    /**
     * @param list<string> $addresses 'HOST:PORT', '[::1]:PORT' or 'unix:PATH'; the local bus first
     * @param string $auth 'NAME:PASSWORD' of a queue or a system; '' where no password is needed
     * @param float $connectTimeoutS longest wait for one connection
     * @param float $answerTimeoutS longest wait for an answer; the bus itself answers within 5 s
     */
    public function __construct(
        private readonly array $addresses,
        private readonly string $auth = '',
        private readonly float $connectTimeoutS = 0.5,
        private readonly float $answerTimeoutS = 10.0,
    ) {
        if (!$addresses) {
            throw new \InvalidArgumentException('an address is needed, such as 127.0.0.1:12018');
        }
    }

    /**
     * Push one job.
     *
     * @param string $body the job, any bytes
     * @param ?string $dedupe pushed again with this key, it is the same job (and the same id is answered)
     * @param ?int $delayMs not run before
     * @param ?int $ttlMs not begun any more after; 0: it never expires
     * @param ?string $key jobs of one key run in order, one at a time
     * @param string $traceparent W3C trace context; '': inside a handler that of its job
     * @return string its id
     * @throws PushError
     */
    public function push(
        string $queue,
        string $body,
        ?string $dedupe = null,
        ?int $delayMs = null,
        ?int $ttlMs = null,
        ?string $key = null,
        string $traceparent = '',
    ): string {
        $options = ['DEDUPE' => $dedupe, 'DELAY' => $delayMs, 'TTL' => $ttlMs, 'KEY' => $key];
        $options['TRACEPARENT'] = $traceparent === '' ? null : $traceparent;
        $arguments = [];
        foreach ($options as $name => $value) {
            if ($value !== null) {
                array_push($arguments, $name, (string) $value);
            }
        }
        $id = $this->ask('PBUS.ADD', $queue, $body, ...$arguments);
        if (!is_string($id) || $id === '') {
            throw new MaybeStored('the bus answered ' . json_encode($id) . ' instead of an id');
        }
        return $id;
    }

    /**
     * Push several jobs in one go: all of them are stored, or none.
     *
     * @param list<string> $bodies
     * @return int backlog of the queue
     * @throws PushError
     */
    public function pushAll(string $queue, array $bodies): int
    {
        if (!$bodies) {
            throw new \InvalidArgumentException('nothing to push');
        }
        $backlog = $this->ask('LPUSH', $queue, ...array_values($bodies));
        if (!is_int($backlog)) {
            throw new MaybeStored('the bus answered ' . json_encode($backlog) . ' instead of a number');
        }
        return $backlog;
    }

    /** The address in use, '' before the first push. */
    public function place(): string
    {
        return $this->place;
    }

    public function close(): void
    {
        $redis = $this->redis;
        $this->redis = null;
        $this->parent = null;
        $this->place = '';
        try {
            $redis?->close();
        } catch (\RedisException) {
            // it was over already
        }
    }

    private function ask(string ...$command): mixed
    {
        $redis = $this->connected();
        $redis->clearLastError();
        try {
            $reply = $redis->rawCommand(...$command);
        } catch (\RedisException $error) {
            $this->throwReply($error->getMessage(), $error);
            $this->close(); // it was sent, or part of it was: nobody knows
            throw new MaybeStored("the bus did not answer: {$error->getMessage()}", '', $error);
        }
        $this->usedS = microtime(true);
        if ($reply === false) { // phpredis answers false to some errors instead of throwing
            $this->throwReply((string) $redis->getLastError(), null);
            throw new MaybeStored('the bus answered nothing that is understood: ' . $redis->getLastError());
        }
        return $reply;
    }

    /** Throw what an error of the bus means; returns where *$text* is none of its words. */
    private function throwReply(string $text, ?\Throwable $previous): void
    {
        $word = strtok(ltrim($text, '-'), ' ') ?: '';
        $class = self::ERRORS[$word] ?? null;
        if ($class !== null) {
            $this->usedS = microtime(true);
            throw new $class($text, $word, $previous);
        }
    }

    private function connected(): \Redis
    {
        if ($this->redis !== null && microtime(true) - $this->usedS > self::IDLE_S) {
            try {
                $this->redis->ping();
                $this->usedS = microtime(true);
            } catch (\RedisException) {
                $this->close(); // the bus was restarted meanwhile; nothing of a push was sent
            }
        }
        $redis = $this->redis ?? $this->connect();
        if (!$this->nameParent($redis)) {
            $this->close(); // the same
            $redis = $this->connect();
            $this->nameParent($redis);
        }
        return $redis;
    }

    /** Tell the bus which job runs here, where it does not know; false: the connection has ended. */
    private function nameParent(\Redis $redis): bool
    {
        $parent = self::runningJob();
        if ($parent === $this->parent) {
            return true;
        }
        $this->parent = $parent;
        try {
            $redis->rawCommand('PBUS.PARENT', ...($parent ?? ['']));
        } catch (\RedisException $error) {
            // A refusal is no reason not to push: the push says for itself what is wrong.
            return isset(self::ERRORS[strtok($error->getMessage(), ' ')]);
        }
        return true;
    }

    /**
     * The job that runs here: its id and its trace context ('': it brought none); null: this is no handler.
     *
     * PbusConsumer.php knows it. Below php-fpm the bus says it in parameters that no visitor of a web site can set;
     * a handler by HTTP is told in headers.
     *
     * @return ?list<string>
     */
    private static function runningJob(): ?array
    {
        $job = class_exists(Job::class, false) && property_exists(Job::class, 'current') ? Job::$current : null;
        if ($job !== null) {
            return [$job->id, $job->traceparent];
        }
        $path = ($_SERVER['SERVER_SOFTWARE'] ?? '') === 'pbus' ? (string) ($_SERVER['REQUEST_URI'] ?? '') : '';
        $header = (string) ($_SERVER['HTTP_X_PBUS_JOB_ID'] ?? '');
        if (
            !preg_match('~^/pbus/[^/]+/[^/]+/(' . self::JOB_ID . ')$~D', $path, $found)
            && !preg_match('~^(' . self::JOB_ID . ')$~D', $header, $found)
        ) {
            return null;
        }
        $traceparent = (string) ($_SERVER['HTTP_TRACEPARENT'] ?? '');
        return [$found[1], preg_match('~^[\x20-\x7e]{0,256}$~D', $traceparent) ? $traceparent : ''];
    }

    private function connect(): \Redis
    {
        $failures = [];
        foreach ($this->addresses as $address) {
            try {
                $this->redis = $this->connectTo($address);
                $this->place = $address;
                $this->usedS = microtime(true);
                return $this->redis;
            } catch (\RedisException $error) {
                $this->throwReply($error->getMessage(), $error); // a wrong password is wrong everywhere
                $failures[] = "$address: {$error->getMessage()}";
            }
        }
        throw new Unavailable('no bus can be reached, nothing was sent: ' . implode('; ', $failures));
    }

    private function connectTo(string $address): \Redis
    {
        $redis = new \Redis();
        if (str_starts_with($address, 'unix:')) {
            [$host, $port] = [substr($address, 5), 0];
        } else {
            $colon = strrpos($address, ':');
            if ($colon === false) {
                throw new \InvalidArgumentException("expected HOST:PORT or unix:PATH, not $address");
            }
            [$host, $port] = [trim(substr($address, 0, $colon), '[]'), (int) substr($address, $colon + 1)];
        }
        // Its own warnings are what it throws as well.
        @$redis->connect($host, $port, $this->connectTimeoutS, null, 0, $this->answerTimeoutS);
        if (defined('Redis::OPT_MAX_RETRIES')) {
            $redis->setOption(\Redis::OPT_MAX_RETRIES, 0);
        }
        if ($this->auth !== '' && $redis->auth($this->auth) !== true) {
            throw new \RedisException((string) $redis->getLastError() ?: 'AUTH was not answered');
        }
        return $redis;
    }
}
