<?php
// A handler below php-fpm: done is the header "Code: 200", anything else is tried again.

if (($_POST['type'] ?? '') === 'ping') {
    header('Code: 200');
    header('Consume-Topics: gift/credit');
    exit;
}
foreach (json_decode($_POST['jobs'], true) as $job) {
    error_log("crediting {$job['content']}, attempt {$job['RetryTimes']}");
}
header('Code: 200');
