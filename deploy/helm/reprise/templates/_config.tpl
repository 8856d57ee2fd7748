{{/* Flags that the chart sets, as a dictionary: config may not have them. */}}
{{- define "reprise.flags" -}}
{{- $v := .Values -}}
{{- $flags := dict
    "listen" (printf "0.0.0.0:%d" (int $v.service.port))
    "metrics-listen" (printf "0.0.0.0:%d" (int $v.metrics.port))
    "device" (ternary "cuda" "cpu" $v.gpu.enabled)
    "drain-seconds" (toString (int $v.drainSeconds))
    "profile" $v.profile
    "log-format" "json" -}}
{{- if eq $v.redis.mode "none" -}}
{{- $_ := set $flags "store" "memory" -}}
{{- else if eq $v.redis.mode "bundled" -}}
{{- $_ := set $flags "store" (printf "redis://%s-redis:6379" (include "reprise.fullname" .)) -}}
{{- $_ := set $flags "store-password-file" "/etc/reprise/redis/password" -}}
{{- else -}}
{{- $x := $v.redis.external -}}
{{- $_ := set $flags "store" $x.url -}}
{{- if $x.existingSecret -}}
{{- $_ := set $flags "store-password-file" (printf "/etc/reprise/redis/%s" $x.passwordKey) -}}
{{- if $x.user -}}{{- $_ := set $flags "store-user" $x.user -}}{{- end -}}
{{- end -}}
{{- if $x.tls.existingSecret -}}
{{- $_ := set $flags "store-tls-ca" "/etc/reprise/redis-tls/ca.crt" -}}
{{- if $x.tls.clientCertificate -}}
{{- $_ := set $flags "store-tls-cert" "/etc/reprise/redis-tls/tls.crt" -}}
{{- $_ := set $flags "store-tls-key" "/etc/reprise/redis-tls/tls.key" -}}
{{- end -}}
{{- end -}}
{{- if $x.tls.serverName -}}{{- $_ := set $flags "store-tls-server-name" $x.tls.serverName -}}{{- end -}}
{{- end -}}
{{- if $v.tls.enabled -}}
{{- $_ := set $flags "tls-cert" "/etc/reprise/tls/tls.crt" -}}
{{- $_ := set $flags "tls-key" "/etc/reprise/tls/tls.key" -}}
{{- if $v.tls.clientCertificates -}}
{{- $_ := set $flags "tls-client-ca" "/etc/reprise/tls/ca.crt" -}}
{{- if $v.tls.certificateTenant -}}{{- $_ := set $flags "certificate-tenant" $v.tls.certificateTenant -}}{{- end -}}
{{- end -}}
{{- else -}}
{{- $_ := set $flags "insecure" "on" -}}
{{- end -}}
{{- if $v.auth.tokensSecret -}}{{- $_ := set $flags "token-file" "/etc/reprise/tokens/tokens" -}}{{- end -}}
{{- if $v.auth.tenantsSecret -}}{{- $_ := set $flags "tenants-file" "/etc/reprise/tenants/tenants.json" -}}{{- end -}}
{{- with $v.auth.jwt -}}
{{- if .jwksConfigMap -}}
{{- $_ := set $flags "jwks-file" "/etc/reprise/jwks/jwks.json" -}}
{{- $_ := set $flags "jwt-issuer" .issuer -}}
{{- $_ := set $flags "jwt-audience" .audience -}}
{{- end -}}
{{- end -}}
{{- toYaml $flags -}}
{{- end -}}

{{/* The file that --config reads. */}}
{{- define "reprise.config" -}}
{{- $flags := include "reprise.flags" . | fromYaml -}}
{{- $models := list -}}
{{- range .Values.models -}}{{- $models = append $models (printf "%s=%s" .name .path | quote) -}}{{- end -}}
model = [{{ join ", " $models }}]
{{- range $name, $value := $flags }}
{{ $name }} = {{ $value | quote }}
{{- end }}
{{- range $name, $value := .Values.config }}
{{- if or (hasKey $flags $name) (eq $name "model") }}
{{- fail (printf "config.%s: the chart sets this flag from its other values" $name) }}
{{- end }}
{{ $name }} = {{ ternary (printf "%.0f" (float64 (default 0 $value))) (toString $value) (and (kindIs "float64" $value) (eq (floor $value) $value)) | quote }}
{{- end }}
{{- end -}}

{{/* Volumes of a server: name, what it is, where it is mounted. */}}
{{- define "reprise.volumes" -}}
{{- $v := .Values -}}
- name: config
  configMap: {name: {{ include "reprise.fullname" . }}}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- if eq $v.redis.mode "bundled" }}
- name: redis
  secret: {secretName: {{ include "reprise.fullname" . }}-redis, items: [{key: password, path: password}], defaultMode: 0440}
{{- else if and (eq $v.redis.mode "external") $v.redis.external.existingSecret }}
- name: redis
  secret: {secretName: {{ $v.redis.external.existingSecret }}, items: [{key: {{ $v.redis.external.passwordKey }}, path: {{ $v.redis.external.passwordKey }}}], defaultMode: 0440}
{{- end }}
{{- if and (eq $v.redis.mode "external") $v.redis.external.tls.existingSecret }}
- name: redis-tls
  secret: {secretName: {{ $v.redis.external.tls.existingSecret }}, defaultMode: 0440}
{{- end }}
{{- if $v.tls.enabled }}
- name: tls
  secret: {secretName: {{ $v.tls.existingSecret }}, defaultMode: 0440}
{{- end }}
{{- if $v.auth.tokensSecret }}
- name: tokens
  secret: {secretName: {{ $v.auth.tokensSecret }}, defaultMode: 0440}
{{- end }}
{{- if $v.auth.tenantsSecret }}
- name: tenants
  secret: {secretName: {{ $v.auth.tenantsSecret }}, defaultMode: 0440}
{{- end }}
{{- if $v.auth.jwt.jwksConfigMap }}
- name: jwks
  configMap: {name: {{ $v.auth.jwt.jwksConfigMap }}}
{{- end }}
{{- if eq $v.modelVolume.type "claim" }}
- name: models
  persistentVolumeClaim: {claimName: {{ include "reprise.modelClaim" . }}}
{{- else if eq $v.modelVolume.type "hostPath" }}
- name: models
  hostPath: {path: {{ $v.modelVolume.hostPath }}, type: Directory}
{{- else if eq $v.modelVolume.type "emptyDir" }}
- name: models
  emptyDir: {sizeLimit: {{ $v.modelVolume.size }}}
{{- end }}
{{- with $v.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Folders, not single files: Kubernetes replaces what is in them when a secret changes, and reprised reads it again. */}}
{{- define "reprise.mounts" -}}
- {name: config, mountPath: /etc/reprise/config, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- $mounted := list "redis" "redis-tls" "tls" "tokens" "tenants" "jwks" -}}
{{- range (include "reprise.volumes" . | fromYamlArray) }}
{{- if has .name $mounted }}
- {name: {{ .name }}, mountPath: /etc/reprise/{{ .name }}, readOnly: true}
{{- end }}
{{- end }}
{{- if ne .Values.modelVolume.type "none" }}
- {name: models, mountPath: {{ .Values.modelVolume.mountPath }}, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}
