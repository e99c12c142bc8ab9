# Sends by curl. It exits with a status other than 0 if the message was not sent.
curl --silent --show-error --fail-with-body "$HERALD_API/send" \
	-H "Authorization: Bearer $HERALD_KEY" \
	-H 'Content-Type: application/json' \
	-H 'Idempotency-Key: order-7-shipped-sh' \
	-d '{"to": {"users": ["42"]}, "text": "sh: your order is on its way"}'
