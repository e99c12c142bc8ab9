<?php
$request = ['http' => ['method' => 'POST', 'timeout' => 15, 'ignore_errors' => true,
    'header' => ['Authorization: Bearer ' . getenv('HERALD_KEY'),
        'Content-Type: application/json', 'Idempotency-Key: order-7-shipped-php'],
    'content' => json_encode(['to' => ['users' => ['42']], 'text' => 'php: your order is on its way'])]];
$answer = json_decode(file_get_contents(getenv('HERALD_API') . '/send', false, stream_context_create($request)), true);
print_r($answer);
exit(isset($answer['error']) || !isset($answer['sent']) ? 1 : 0);
