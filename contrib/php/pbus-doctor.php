<?php
/*
 * What `pbus doctor --script PATH` wants to know of a php-fpm pool, as JSON: ini values that decide whether jobs
 * arrive, what php-fpm says of the pool, and which configuration it was started with.
 *
 * Copy it to where php-fpm can read it, outside of what the web server serves: it is called over FastCGI by its path.
 * It says nothing to a web server that does find it (the parameter PBUS_DOCTOR cannot come from a client).
 * PHP >= 7.3.
 */

declare(strict_types=1);

if (($_SERVER['PBUS_DOCTOR'] ?? '') !== '1') {
    header('Status: 404 Not Found');
    exit;
}

/** "php-fpm: master process (/etc/php/8.2/fpm/php-fpm.conf)" of the process that has started this one. */
function pbus_doctor_master(): string
{
    $stat = @file_get_contents('/proc/self/stat');
    if ($stat === false || !preg_match('/.*\) \S (\d+) /s', $stat, $match)) {
        return '';
    }
    return trim((string) @file_get_contents("/proc/{$match[1]}/cmdline"), "\0 ");
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
    'status' => function_exists('fpm_get_status') ? fpm_get_status() : null,
    'master' => pbus_doctor_master(),
], JSON_PARTIAL_OUTPUT_ON_ERROR), "\n";
