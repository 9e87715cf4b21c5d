<?php
/*
 * What `pbus doctor --script PATH` wants to know of a php-fpm pool, as JSON: ini values that decide whether jobs
 * arrive. It does not call fpm_get_status(): in PHP 8.2 that can crash the process that calls it (seen: signal 11 in
 * half of the pools that had just been started). The status page tells the same without a risk.
 *
 * Copy it to where php-fpm can read it, outside of what the web server serves: it is called over FastCGI by its path.
 * It says nothing to a web server that does find it (the parameter PBUS_DOCTOR cannot come from a client).
 * PHP >= 7.0.
 */

declare(strict_types=1);

if (($_SERVER['PBUS_DOCTOR'] ?? '') !== '1') {
    header('Status: 404 Not Found');
    exit;
}

$ini = [];
foreach (['post_max_size', 'enable_post_data_reading', 'max_execution_time', 'memory_limit'] as $name) {
    $value = ini_get($name);
    $ini[$name] = $value === false ? null : $value;
}

header('Content-Type: application/json');
echo json_encode([
    'pbus_doctor' => 1,
    'php' => PHP_VERSION,
    'sapi' => PHP_SAPI,
    'ini' => $ini,
], JSON_PARTIAL_OUTPUT_ON_ERROR), "\n";
