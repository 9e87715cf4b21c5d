<?php
/*
 * A handler of the pepper contract that keeps the ledger: `key attempt pid t0 t1 id ok|failed`, one
 * O_APPEND write before it answers. Where to write comes as the FastCGI parameter LEDGER_DIR.
 */

$dir = $_SERVER['LEDGER_DIR'];
$queue = $_POST['queue'] ?? '';
$topic = $_POST['topic'] ?? '';

if (($_POST['type'] ?? '') === 'ping') {
    header('Code: 200');
    header("Consume-Topics: $queue/$topic");
    exit;
}

$failed = 0;
foreach (json_decode($_POST['jobs'] ?? '[]', true) ?: [] as $job) {
    $start = microtime(true);
    $content = ($job['encoding'] ?? '') === 'base64' ? base64_decode($job['content']) : $job['content'];
    $words = explode(' ', $content);
    $attempt = (int) $job['RetryTimes'];
    $orders = ['sleep' => 0, 'linger' => 0, 'fail' => 0, 'die' => 0];
    foreach ($words as $word) {
        if (preg_match('/^(sleep|linger|fail|die)=(\d+)$/', $word, $match)) {
            $orders[$match[1]] = (int) $match[2];
        }
    }
    usleep($orders['sleep'] * 1000);
    if ($attempt <= $orders['die']) {
        posix_kill_self();
    }
    $ok = $attempt > $orders['fail'];
    $failed += $ok ? 0 : 1;
    $line = sprintf(
        "%s %d %d %.6F %.6F %s %s\n",
        $words[0], $attempt, getmypid(), $start, microtime(true), $job['id'], $ok ? 'ok' : 'failed'
    );
    file_put_contents("$dir/$queue.$topic", $line, FILE_APPEND);
    usleep($orders['linger'] * 1000); // executed, not answered
}
header($failed ? 'Code: 500' : 'Code: 200');
echo $failed ? "$failed failed as ordered" : 'done';

/* End this process as a crash does; php-fpm has no posix extension by default on every system. */
function posix_kill_self(): void
{
    function_exists('posix_kill') ? posix_kill(getmypid(), 9) : shell_exec('kill -9 ' . getmypid());
}
